"""Test RegisterWebhook against the simulator, with moto's tables and secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from functions.register_webhook import app
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import Budget
from stream_downloads.adapters.stream_api import NotReached, Refused
from stream_downloads.domain.commands import BadRequest
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services.dependencies import Service
from stream_downloads.services.register import ForeignSubscription, NoSubscription
from stream_downloads.services.signing_secret import REGISTRATION
from tests.simulator import Fault, StreamSimulator
from tests.support.events import LambdaContext, load_event
from tests.support.template import REFERENCES

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

OURS = REFERENCES["ReceiveWebhookFunctionUrl.FunctionUrl"]
FOREIGN = "https://other.example.com/hook"
SECRET_ARN = REFERENCES["WebhookSecret.Id"]
REFRESH = {"refresh": True}
CREDENTIALS_ARN = REFERENCES["CloudflareSecretArn"]


@pytest.fixture(autouse=True)
def deployed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the handler use this service."""
    monkeypatch.setattr(app, "SERVICE", service)


def invoke(event: object = None) -> dict[str, Any]:
    payload: Any = load_event("register_webhook") if event is None else event
    answer = app.lambda_handler(payload, LambdaContext())
    assert isinstance(answer, dict)
    return answer


def subscribe(simulator: StreamSimulator, url: str) -> str:
    """Subscribe a URL at Cloudflare; return the secret of the subscription."""
    return simulator.outbox.subscribe(url, simulator.clock()).secret


def subscribed(simulator: StreamSimulator) -> tuple[str, str]:
    subscription = simulator.outbox.subscription
    assert subscription
    return subscription.url, subscription.secret


def stored(secretsmanager: SecretsManagerClient, stage: str = "AWSCURRENT") -> str:
    version = secretsmanager.get_secret_value(SecretId=SECRET_ARN, VersionStage=stage)
    return str(json.loads(version["SecretString"])["webhook_secret"])


def test_without_a_subscription_ours_is_made_and_its_secret_is_stored(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, budget: Budget
) -> None:
    before = stored(secretsmanager)
    answer = invoke()
    url, secret = subscribed(simulator)
    assert url == OURS
    assert answer.pop("modified")
    assert answer == {"result": "subscribed", "notification_url": OURS, "secret_stored": True}
    assert stored(secretsmanager) == secret
    assert stored(secretsmanager, "AWSPREVIOUS") == before
    assert budget.usage().used == 3  # no request is sent twice


def test_a_second_time_changes_nothing(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient
) -> None:
    invoke()
    version = secretsmanager.get_secret_value(SecretId=SECRET_ARN)["VersionId"]
    answer = invoke()
    assert answer["result"] == "kept"
    assert answer["secret_stored"] is False
    assert secretsmanager.get_secret_value(SecretId=SECRET_ARN)["VersionId"] == version
    assert simulator.counts()["put webhook"] == 1


@pytest.mark.parametrize("event", ["register_webhook", "register_webhook_force"])
@pytest.mark.parametrize("url", [OURS, OURS.rstrip("/")])
def test_our_own_subscription_is_kept(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, url: str, event: str
) -> None:
    secret = subscribe(simulator, url)
    answer = invoke(load_event(event))
    assert answer["result"] == "kept"
    assert answer["secret_stored"] is True
    assert subscribed(simulator) == (url, secret)
    assert stored(secretsmanager) == secret


def test_a_foreign_subscription_is_left_alone_and_named(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient
) -> None:
    secret = subscribe(simulator, FOREIGN)
    before = stored(secretsmanager)
    with pytest.raises(ForeignSubscription) as refused:
        invoke()
    assert FOREIGN in str(refused.value)
    assert secret not in str(refused.value)
    assert subscribed(simulator) == (FOREIGN, secret)
    assert stored(secretsmanager) == before


def test_an_empty_answer_is_no_leave_to_take_a_foreign_subscription(
    simulator: StreamSimulator,
) -> None:
    theirs = simulator.outbox.subscribe(FOREIGN, 0.0)
    simulator.faults.script(Fault.RESULT_NULL, calls=["get webhook"])
    with pytest.raises(ForeignSubscription):
        invoke()
    assert simulator.outbox.subscription == theirs


def test_a_foreign_subscription_is_replaced_by_force(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient
) -> None:
    subscribe(simulator, FOREIGN)
    answer = invoke(load_event("register_webhook_force"))
    url, secret = subscribed(simulator)
    assert answer["result"] == "replaced"
    assert answer["replaced_url"] == FOREIGN
    assert url == OURS
    assert stored(secretsmanager) == secret


OTHER_THAN_OBJECTS = ("", 0, False, "force", ["force"])
WRONG_FIELDS = ({"force": None}, {"force": "true"}, {"url": "u"}, {"force": True, "url": "u"})


@pytest.mark.parametrize("event", [*OTHER_THAN_OBJECTS, *WRONG_FIELDS])
def test_a_bad_payload_says_what_is_wrong_and_changes_nothing(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, event: object
) -> None:
    before = stored(secretsmanager)
    with pytest.raises(BadRequest, match=r"force|JSON object"):
        invoke(event)
    assert simulator.calls == []
    assert stored(secretsmanager) == before


def test_a_guest_stores_the_owners_secret_and_leaves_the_subscription_alone(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, service: Service
) -> None:
    secret = subscribe(simulator, FOREIGN)
    answer = invoke(load_event("register_webhook_guest"))
    assert answer.pop("modified")
    assert answer == {"result": "guest", "notification_url": FOREIGN, "secret_stored": True}
    assert stored(secretsmanager) == secret
    assert service.control.read(REGISTRATION).value["position"] == "guest"
    assert invoke(load_event("register_webhook_guest"))["secret_stored"] is False
    rotated = simulator.outbox.rotate_secret(simulator.clock()).secret
    assert invoke(load_event("register_webhook_guest"))["secret_stored"] is True
    assert stored(secretsmanager) == rotated
    assert stored(secretsmanager, "AWSPREVIOUS") == secret
    assert subscribed(simulator) == (FOREIGN, rotated)
    assert simulator.counts().keys() == {"get webhook"}


def test_without_a_subscription_there_is_no_owner_to_be_a_guest_of(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, service: Service
) -> None:
    before = stored(secretsmanager)
    with pytest.raises(NoSubscription, match="no webhook subscription"):
        invoke(load_event("register_webhook_guest"))
    assert stored(secretsmanager) == before
    assert service.control.read(REGISTRATION).value == {}
    assert simulator.counts() == {"get webhook": 2}


def test_a_guest_whose_url_is_subscribed_is_the_owner(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, service: Service
) -> None:
    secret = subscribe(simulator, OURS)
    assert invoke(load_event("register_webhook_guest"))["result"] == "kept"
    assert stored(secretsmanager) == secret
    assert service.control.read(REGISTRATION).value["position"] == "owner"


def test_the_position_changes_with_the_last_registration(
    simulator: StreamSimulator, service: Service
) -> None:
    invoke()
    assert service.control.read(REGISTRATION).value["position"] == "owner"
    subscribe(simulator, FOREIGN)
    invoke(load_event("register_webhook_guest"))
    assert service.control.read(REGISTRATION).value["position"] == "guest"
    invoke(load_event("register_webhook_force"))
    assert service.control.read(REGISTRATION).value["position"] == "owner"


def test_a_refresh_before_any_registration_asks_nothing(simulator: StreamSimulator) -> None:
    subscribe(simulator, FOREIGN)
    assert invoke(REFRESH) == {"result": "not registered"}
    assert simulator.calls == []


@pytest.mark.parametrize("position", ["register_webhook", "register_webhook_guest"])
def test_a_refresh_stores_the_secret_that_has_changed_and_changes_nothing_else(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, position: str
) -> None:
    if position.endswith("guest"):
        subscribe(simulator, FOREIGN)
    invoke(load_event(position))
    before = subscribed(simulator)
    assert invoke(REFRESH) == {"result": "refreshed", "secret_stored": False}
    rotated = simulator.outbox.rotate_secret(simulator.clock()).secret
    simulator.calls.clear()
    assert invoke(REFRESH) == {"result": "refreshed", "secret_stored": True}
    assert simulator.counts() == {"get webhook": 1}
    assert stored(secretsmanager) == rotated
    assert stored(secretsmanager, "AWSPREVIOUS") == before[1]
    assert subscribed(simulator) == (before[0], rotated)


def test_a_refresh_takes_no_subscription_back_and_no_foreign_secret(
    simulator: StreamSimulator,
    secretsmanager: SecretsManagerClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    invoke()
    before = stored(secretsmanager)
    theirs = subscribe(simulator, FOREIGN)
    assert invoke(REFRESH) == {"result": "changed"}
    assert subscribed(simulator) == (FOREIGN, theirs)
    assert stored(secretsmanager) == before
    assert "not as it was registered" in caplog.text


@pytest.mark.parametrize(("minutes", "level"), [(10, "INFO"), (11, "WARNING")])
def test_a_subscription_that_is_gone_is_a_warning_only_if_the_stack_depends_on_webhooks(
    simulator: StreamSimulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    minutes: int,
    level: str,
) -> None:
    invoke()
    simulator.outbox.subscription = None
    monkeypatch.setattr(app, "PERIOD_SECONDS", minutes * 60.0)
    assert invoke(REFRESH) == {"result": "changed"}
    (entry,) = [entry for entry in caplog.records if "as it was registered" in entry.message]
    assert entry.levelname == level


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.THROTTLED, Fault.FORBIDDEN])
def test_a_refresh_that_fails_is_logged_and_left_to_the_next_one(
    simulator: StreamSimulator, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    invoke()
    simulator.faults.script(fault, calls=["get webhook"])
    assert invoke(REFRESH) == {"result": "failed"}
    assert "could not be refreshed" in caplog.text


def test_a_token_that_was_corrected_a_moment_ago_is_used_at_once(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, service: Service
) -> None:
    secretsmanager.put_secret_value(SecretId=CREDENTIALS_ARN, SecretString="no JSON")
    with pytest.raises(SecretUnavailable, match="api_token"):
        service.gateway.permit(1, Asker.OPERATOR)
    good = json.dumps({"api_token": simulator.settings.api_token})
    secretsmanager.put_secret_value(SecretId=CREDENTIALS_ARN, SecretString=good)
    assert invoke()["result"] == "subscribed"


@pytest.mark.parametrize(
    "fault",
    [
        Fault.RESET_AFTER,
        Fault.HANG_AFTER,
        Fault.SERVER_ERROR_AFTER,
        Fault.TRUNCATED_JSON,
        Fault.RESULT_NULL,
        Fault.CUT_OFF,
    ],
)
def test_a_subscription_whose_answer_was_lost_is_finished_by_the_next_run(
    simulator: StreamSimulator, secretsmanager: SecretsManagerClient, fault: Fault
) -> None:
    before = stored(secretsmanager)
    simulator.faults.script(fault, calls=["put webhook"])
    with pytest.raises((NotReached, Refused)):
        invoke()
    assert stored(secretsmanager) == before
    answer = invoke()
    assert answer["result"] == "kept"
    assert answer["secret_stored"] is True
    assert stored(secretsmanager) == subscribed(simulator)[1]


def test_a_secret_that_could_not_be_stored_is_stored_by_the_next_run(
    simulator: StreamSimulator,
    secretsmanager: SecretsManagerClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": "InternalServiceError"}}, "PutSecretValue")

    with monkeypatch.context() as broken:
        broken.setattr(app.STORE_SECRET.args[0], "put_secret_value", refuse)
        with pytest.raises(ClientError):
            invoke()
    answer = invoke()
    assert answer["result"] == "kept"
    assert answer["secret_stored"] is True
    assert stored(secretsmanager) == subscribed(simulator)[1]


def test_the_secret_is_in_no_answer_and_no_log(
    simulator: StreamSimulator,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    answers = [invoke()]
    secrets = [subscribed(simulator)[1]]
    secrets.append(simulator.outbox.rotate_secret(simulator.clock()).secret)
    answers.append(invoke())
    said = json.dumps(answers) + caplog.text + capfd.readouterr().out
    said += "".join(str(vars(entry)) for entry in caplog.records)
    assert '"result"' in said
    assert not [secret for secret in secrets if secret in said]
