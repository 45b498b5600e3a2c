"""Test ReceiveWebhook: its answers, its writes, its requests to Cloudflare."""

from __future__ import annotations

import io
import json
import time
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError

from functions.receive_webhook import app
from functions.register_webhook import app as register_webhook
from stream_downloads.adapters.observability import logger
from stream_downloads.adapters.secrets import SigningSecrets
from stream_downloads.domain import transitions
from stream_downloads.domain.download import Download, DownloadType, Lane, Status
from stream_downloads.domain.video import Video
from stream_downloads.services.dependencies import Service
from tests.integration.conftest import WEBHOOK_SECRET
from tests.simulator import StreamSimulator
from tests.support.clock import VirtualClock
from tests.support.event_bus import Events
from tests.support.events import VIDEO_UID, LambdaContext, load_event, signed_event, video_event
from tests.support.secrets_manager import refusal
from tests.support.template import REFERENCES

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

SECRET_ARN = REFERENCES["WebhookSecret.Id"]


@pytest.fixture(autouse=True)
def deployed(
    service: Service, secretsmanager: SecretsManagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the handler use this service."""
    use(monkeypatch, service)
    monkeypatch.setattr(app, "SECRETS", SigningSecrets(secretsmanager, SECRET_ARN))


def use(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    monkeypatch.setattr(app, "SERVICE", service)


def send(event: dict[str, Any]) -> int:
    answer = app.lambda_handler(event, LambdaContext())
    assert set(answer) == {"statusCode", "headers", "body"}
    return int(answer["statusCode"])


def webhook(body: bytes | dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Return a good webhook, just signed; ``options`` as for `signed_event`."""
    details: dict[str, Any] = {"secret": WEBHOOK_SECRET.encode(), "now": int(time.time())}
    details |= options
    return signed_event(video_event() if body is None else body, **details)


def items(dynamodb: DynamoDBClient, table: str = "DownloadsTable") -> list[dict[str, Any]]:
    found: list[Any] = dynamodb.scan(TableName=REFERENCES[table])["Items"]
    return found


def row_of(service: Service, uid: str) -> Download:
    [row] = service.downloads.of_video(uid)
    return row


@pytest.fixture
def video(simulator: StreamSimulator) -> str:
    """Return a video that is ready at Cloudflare."""
    return simulator.upload(webhook_delays=())


def test_a_ready_video_gets_its_row_and_its_create_at_once(
    simulator: StreamSimulator, service: Service, video: str
) -> None:
    assert send(webhook(video_event(uid=video, creator="someone"))) == 200
    row = row_of(service, video)
    assert row.status == Status.INPROGRESS
    assert row.creator == "someone"
    assert row.url is None
    assert simulator.counts() == {"create download": 1}


def test_what_a_backfill_found_first_is_created_at_once(
    simulator: StreamSimulator, service: Service, video: str
) -> None:
    now = service.clock()
    service.downloads.add(
        transitions.request(Video(uid=video), DownloadType.DEFAULT, now - 60, lane=Lane.BACKFILL)
    )
    assert send(webhook(video_event(uid=video))) == 200
    row = row_of(service, video)
    assert row.status == Status.INPROGRESS
    assert row.lane == Lane.LIVE
    assert simulator.counts() == {"create download": 1}


@pytest.mark.parametrize("is_base64", [False, True])
def test_cloudflares_own_example_is_taken(
    simulator: StreamSimulator, service: Service, *, is_base64: bool
) -> None:
    assert send(webhook(is_base64=is_base64)) == 200
    row = row_of(service, VIDEO_UID)
    # The simulated Cloudflare has no such video: the poller finds out what that means.
    assert row.status == Status.REQUESTED
    assert row.duration_seconds == 5.5
    assert simulator.counts() == {"create download": 1}


def test_a_failed_video_ends_in_error_with_cloudflares_reason(
    simulator: StreamSimulator, service: Service
) -> None:
    event = video_event("video_failed")
    assert send(webhook(event)) == 200
    row = row_of(service, event["uid"])
    assert row.status is Status.ERROR
    assert row.error_code == event["status"]["errorReasonCode"]
    assert simulator.calls == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": {}}, 403),
        ({"body": "{}"}, 403),
        ({"requestContext": {"http": {"method": "GET"}}}, 405),
        ({"body": "%%%", "isBase64Encoded": True}, 400),
        ({"body": "x" * (1024 * 1024 + 1)}, 413),
    ],
)
def test_what_is_no_authentic_webhook_writes_nothing_and_asks_nothing(
    simulator: StreamSimulator, dynamodb: DynamoDBClient, change: dict[str, Any], status: int
) -> None:
    assert send(webhook() | change) == status
    assert items(dynamodb) == items(dynamodb, "ControlTable") == []
    assert simulator.calls == []


def test_what_an_owner_passes_on_is_good_also_right_after_its_secret_has_changed(
    simulator: StreamSimulator,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(register_webhook, "SERVICE", service)
    theirs = simulator.outbox.subscribe("https://owner.example.com/hook", 0.0)
    register_webhook.lambda_handler(load_event("register_webhook_guest"), LambdaContext())

    def passed_on(secret: str, **changes: Any) -> int:
        uid = simulator.upload(webhook_delays=())
        return send(webhook(video_event(uid=uid), secret=secret.encode(), **changes))

    assert passed_on(theirs.secret) == 200
    rotated = simulator.outbox.rotate_secret(simulator.clock())
    assert passed_on(theirs.secret) == 200  # on its way when the secret changed
    assert passed_on(rotated.secret) == 200  # the first one with the new secret
    assert passed_on(theirs.secret) == 200
    assert passed_on(rotated.secret, is_base64=True) == 200
    assert passed_on("a guess") == 403
    assert simulator.outbox.subscription == rotated


def test_no_200_before_the_intent_is_durable(
    simulator: StreamSimulator, dynamodb: DynamoDBClient
) -> None:
    dynamodb.delete_table(TableName=REFERENCES["DownloadsTable"])
    assert send(webhook()) == 500
    assert simulator.calls == []


def test_without_the_control_table_the_intent_is_taken_all_the_same(
    simulator: StreamSimulator, dynamodb: DynamoDBClient, service: Service
) -> None:
    dynamodb.delete_table(TableName=REFERENCES["ControlTable"])
    assert send(webhook()) == 200
    row = row_of(service, VIDEO_UID)
    assert row.due_at is not None
    assert simulator.calls == []


def test_a_flood_is_logged_once_a_minute_for_each_reason_and_always_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()
    use(monkeypatch, replace(service, monotonic=clock))
    output = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", output)
    unsigned = webhook() | {"headers": {}}
    with redirect_stdout(output):
        for _ in range(5):
            assert send(unsigned) == 403
        assert send(webhook(now=1)) == 403
        clock.now += 61
        assert send(unsigned) == 403
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    logged = [
        (line["reason"], line["not_logged_since"])
        for line in lines
        if line.get("message") == "Webhook"
    ]
    assert logged == [
        ("signature_missing", 0),
        ("valid_signature_too_old", 0),
        ("signature_missing", 4),
    ]
    assert sum(line["Webhooks"][0] for line in lines if "Webhooks" in line) == 7


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """Return a bus that every webhook is passed on to."""
    events = Events()
    monkeypatch.setattr(app, "BUS", events.bus())
    return events


@pytest.mark.parametrize(
    ("name", "kind"), [("video_ready", "Video Ready"), ("video_failed", "Video Failed")]
)
def test_a_webhook_is_passed_on_as_cloudflare_sent_it_each_time(
    events: Events, name: str, kind: str
) -> None:
    body = video_event(name, unknown={"é": [1, None, 0.1]})
    assert send(webhook(body)) == 200
    assert send(webhook(body)) == 200
    assert events.told() == [(kind, body)] * 2
    assert {entry["Source"] for entry in events.taken} == {"stream-downloads"}


def test_only_an_authentic_webhook_about_a_ready_or_failed_video_is_passed_on(
    events: Events,
) -> None:
    assert send(webhook(secret=b"a guess")) == 403
    assert send(webhook(load_event("live_input"))) == 200
    assert send(webhook(video_event(status={"state": "queued"}))) == 200
    assert send(webhook(b"[]")) == 200
    assert events.taken == []


NOT_REACHED = EndpointConnectionError(endpoint_url="https://events.example")


@pytest.mark.parametrize(
    ("failure", "refuse"),
    [(refusal("AccessDenied"), frozenset()), (NOT_REACHED, frozenset()), (None, frozenset({0}))],
    ids=["refused", "not reached", "entry refused"],
)
def test_while_the_bus_fails_the_answer_is_500_and_the_intent_and_its_create_are_there(
    events: Events,
    simulator: StreamSimulator,
    service: Service,
    video: str,
    failure: Exception | None,
    refuse: frozenset[int],
) -> None:
    events.failure, events.refuse = failure, refuse
    event = webhook(video_event(uid=video))
    assert send(event) == 500
    assert row_of(service, video).status is Status.INPROGRESS
    assert simulator.counts() == {"create download": 1}
    events.failure = None
    assert send(event) == 200
    assert [detail["uid"] for _, detail in events.told()] == [video]
    assert simulator.counts() == {"create download": 1}


def test_others_hear_of_a_video_that_could_not_be_recorded(
    events: Events, dynamodb: DynamoDBClient
) -> None:
    dynamodb.delete_table(TableName=REFERENCES["DownloadsTable"])
    assert send(webhook()) == 500
    assert events.told() == [("Video Ready", video_event())]


def test_what_is_too_large_for_the_bus_is_passed_on_without_its_metadata(events: Events) -> None:
    # To the byte: source, type and detail have to stay below 256 KiB.
    room = 256 * 1024 - len("stream-downloads" + "Video Ready") - 1
    body = video_event(meta={"note": ""})
    body["meta"]["note"] = "x" * (room - len(json.dumps(body, ensure_ascii=False)))
    assert send(webhook(body)) == 200
    assert events.told() == [("Video Ready", body)]
    body["meta"]["note"] += "x"
    assert send(webhook(body)) == 200
    del body["meta"]
    assert events.told()[1:] == [("Video Ready", body)]


@pytest.mark.parametrize(
    "more",
    [
        ', "preview": "' + "x" * 300_000 + '"',
        ', "size": NaN',
        ', "size": 1e999',
        ', "creator": "\\ud800"',
    ],
    ids=["large", "NaN", "infinite", "surrogate"],
)
def test_what_no_bus_can_take_is_logged_and_answered_with_200(
    events: Events, service: Service, caplog: pytest.LogCaptureFixture, more: str
) -> None:
    body = json.dumps(video_event())[:-1] + more + "}"
    assert send(webhook(body.encode())) == 200
    assert events.taken == []
    assert "did not take a webhook" in caplog.text
    assert row_of(service, VIDEO_UID).status is Status.REQUESTED


def test_a_detail_that_the_bus_cannot_read_is_not_wanted_again(
    events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    events.refuse, events.code = frozenset({0}), "MalformedDetail"
    assert send(webhook()) == 200
    assert "did not take a webhook" in caplog.text


def test_a_webhook_nested_as_deep_as_can_be_read_is_answered(
    events: Events, service: Service
) -> None:
    for depth in range(400, 1000, 25):
        note = "[" * depth + "]" * depth
        body = json.dumps(video_event())[:-1] + f', "meta": {{"note": {note}}}}}'
        assert send(webhook(body.encode())) == 200
    assert row_of(service, VIDEO_UID).status is Status.REQUESTED
    assert events.taken


def test_what_is_logged_names_the_video_and_holds_no_secret(
    video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", lines)
    event = webhook(video_event(uid=video))
    send(event)
    send(event | {"body": event["body"] + " "})
    signature = event["headers"]["webhook-signature"].partition("sig1=")[2]
    assert WEBHOOK_SECRET not in lines.getvalue()
    assert signature not in lines.getvalue()
    assert f'"video_uid":"{video}"' in lines.getvalue()
