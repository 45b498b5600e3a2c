"""Test the simulated Stream: what time changes, and what a test can set."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from tests.simulator import (
    Fault,
    Request,
    Response,
    Settings,
    StreamSimulator,
    download_url,
    timestamp,
    unreliable,
)
from tests.support.clock import START, VirtualClock
from tests.support.events import load_event


class Simulator(StreamSimulator):
    """The simulator with the clock of the test."""

    clock: VirtualClock


@pytest.fixture
def simulator(clock: VirtualClock) -> Simulator:
    return Simulator(clock=clock)


def ask(
    simulator: StreamSimulator,
    method: str,
    path: str,
    body: object = None,
    *,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Send a request about the account's Stream with good credentials."""
    return simulator.handle(
        Request(
            method,
            f"/client/v4/accounts/{simulator.settings.account_id}/stream{path}",
            query or {},
            {"authorization": "Bearer simulated-token"} if headers is None else headers,
            b"" if body is None else json.dumps(body).encode(),
        )
    )


def result(response: Response) -> Any:
    assert response.status == 200
    return json.loads(response.body)["result"]


def codes(response: Response) -> tuple[int, list[int]]:
    """Return the status and the codes of the errors."""
    return response.status, [error["code"] for error in json.loads(response.body)["errors"]]


def subscribe(simulator: StreamSimulator, url: str = "https://a.example/") -> str:
    """Subscribe a URL to webhooks; return the secret that signs them."""
    return str(result(ask(simulator, "PUT", "/webhook", {"notificationUrl": url}))["secret"])


def default_of(simulator: StreamSimulator, uid: str) -> Any:
    """Return what a list says of a video's MP4."""
    return result(ask(simulator, "GET", f"/{uid}/downloads"))["default"]


# Downloads


def test_a_download_progresses_and_becomes_ready(simulator: Simulator) -> None:
    uid = simulator.upload(generation_seconds=40, queue_seconds=10)
    url = download_url(uid, "default")
    ask(simulator, "POST", f"/{uid}/downloads")
    seen = []
    for simulator.clock.now in (START, START + 10, START + 30, START + 49.9, START + 50):
        seen.append(default_of(simulator, uid))
    assert [said["percentComplete"] for said in seen] == [0.0, 0.0, 50.0, 99.0, 100.0]
    assert [said["status"] for said in seen] == [*["inprogress"] * 4, "ready"]
    assert {said["url"] for said in seen} == {url}
    assert simulator.ready_at(uid, "default") == START + 50


def test_a_repeated_create_answers_with_what_there_is(simulator: Simulator) -> None:
    uid = simulator.upload(generation_seconds=10)
    ask(simulator, "POST", f"/{uid}/downloads")
    simulator.clock.now += 9
    again = result(ask(simulator, "POST", f"/{uid}/downloads/default"))
    assert again["default"]["percentComplete"] == 90.0
    simulator.settings.repeated_create = "conflict"
    assert ask(simulator, "POST", f"/{uid}/downloads").status == 409


@pytest.mark.parametrize("progress", ["linear", "silent", "stalling", "jumping", "backwards"])
def test_progress_of_any_kind_stays_a_percentage(simulator: Simulator, progress: str) -> None:
    uid = simulator.upload(generation_seconds=100, progress=progress, noise=10)
    ask(simulator, "POST", f"/{uid}/downloads")
    seen = []
    for _ in range(99):
        simulator.clock.now += 1
        seen.append(default_of(simulator, uid)["percentComplete"])
    assert 0 <= min(seen) < max(seen) <= 99


def test_both_answer_shapes_and_both_answers_to_nothing_exist(simulator: Simulator) -> None:
    simulator.settings = Settings(answer_shape="flat", nothing_created="not found")
    uid = simulator.upload()
    assert codes(ask(simulator, "GET", f"/{uid}/downloads")) == (404, [10003])
    assert codes(ask(simulator, "DELETE", f"/{uid}/downloads")) == (404, [10003])
    assert result(ask(simulator, "POST", f"/{uid}/downloads"))["status"] == "inprogress"


def test_a_private_download_needs_a_token_that_allows_it(simulator: Simulator) -> None:
    uid = simulator.upload(private=True, generation_seconds=1)
    plain = download_url(uid, "default")
    ask(simulator, "POST", f"/{uid}/downloads")
    simulator.clock.now += 1
    assert simulator.fetch(plain) == 401
    exp = int(simulator.clock.now) + 60
    good = result(ask(simulator, "POST", f"/{uid}/token", {"exp": exp, "downloadable": True}))
    watch_only = result(ask(simulator, "POST", f"/{uid}/token", {"exp": exp}))
    assert simulator.fetch(plain.replace(uid, good["token"])) == 200
    assert simulator.fetch(plain.replace(uid, watch_only["token"])) == 401
    assert simulator.fetch(plain.replace(uid, "0" * 32)) == 401
    simulator.clock.now += 60
    assert simulator.fetch(plain.replace(uid, good["token"])) == 401


def test_a_public_download_can_be_fetched_once_it_is_ready(simulator: Simulator) -> None:
    uid = simulator.upload(generation_seconds=1)
    ask(simulator, "POST", f"/{uid}/downloads")
    assert simulator.fetch(download_url(uid, "default")) == 404
    simulator.clock.now += 1
    assert simulator.fetch(download_url(uid, "default")) == 200
    assert simulator.fetch(download_url(uid, "default").replace("customer", "other")) == 404


@pytest.mark.parametrize("body", [{"exp": 5}, {"exp": START + 90000}, {"exp": "soon"}])
def test_a_token_lasts_a_day_at_most(simulator: Simulator, body: object) -> None:
    assert codes(ask(simulator, "POST", f"/{simulator.upload()}/token", body)) == (400, [10005])


# Videos


def test_a_live_recording_of_over_four_hours_gets_no_download(simulator: Simulator) -> None:
    uid = simulator.upload(live_input="abc", encode_seconds=600, duration_seconds=5 * 3600)
    assert result(ask(simulator, "GET", f"/{uid}"))["status"]["state"] == "live-inprogress"
    simulator.clock.now += 600
    video = result(ask(simulator, "GET", f"/{uid}"))
    assert video["status"]["state"] == "ready"
    assert video["liveInput"] == "abc"
    assert codes(ask(simulator, "POST", f"/{uid}/downloads")) == (400, [10005])


def test_videos_are_listed_by_state_time_and_number(simulator: Simulator) -> None:
    uids = []
    for simulator.clock.now in (START, START + 1, START + 2, START + 3):
        failed = simulator.clock.now == START + 2
        uids.append(simulator.upload(error_code="ERR" if failed else None))

    def listed(**query: str) -> list[str]:
        return [video["uid"] for video in result(ask(simulator, "GET", "", query=query))]

    assert listed() == uids[::-1]
    assert listed(asc="true") == uids
    assert listed(asc="true", limit="2") == uids[:2]
    assert listed(asc="true", status="ready") == [uids[0], uids[1], uids[3]]
    bounds = {"start": timestamp(START + 1), "end": timestamp(START + 2)}
    assert listed(asc="true", **bounds) == uids[1:3]
    assert listed(asc="true", after=bounds["start"], before=bounds["end"]) == uids[1:3]
    simulator.settings.inclusive_bounds = False
    assert listed(asc="true", **bounds) == []
    assert listed(asc="true", start=timestamp(START)) == uids[1:]


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "1001"}, {"start": "yesterday"}])
def test_a_bad_query_is_a_bad_request(simulator: Simulator, query: dict[str, str]) -> None:
    assert codes(ask(simulator, "GET", "", query=query)) == (400, [10005])


# Who may ask, how often, and what there is to ask


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-auth-email": "you@example.com", "x-auth-key": "simulated-key"}, 200),
        ({"x-auth-email": "you@example.com", "x-auth-key": "wrong"}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({}, 401),
    ],
)
def test_only_good_credentials_are_let_in(
    simulator: Simulator, headers: dict[str, str], status: int
) -> None:
    assert ask(simulator, "GET", "", headers=headers).status == status


def test_another_account_is_forbidden(simulator: Simulator) -> None:
    path = f"/client/v4/accounts/{'f' * 32}/stream"
    request = Request("GET", path, headers={"authorization": "Bearer simulated-token"})
    assert codes(simulator.handle(request)) == (403, [10000])


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/a/b/c"), ("PATCH", ""), ("GET", f"/{'a' * 33}"), ("POST", "/a/downloads/subtitles")],
)
def test_a_bad_path_has_no_route(simulator: Simulator, method: str, path: str) -> None:
    assert codes(ask(simulator, method, path)) == (400, [7003, 7000])


def test_one_request_too_many_blocks_all_for_five_minutes(clock: VirtualClock) -> None:
    simulator = StreamSimulator(clock=clock, request_limit=3)
    for clock.now in (START, START + 100, START + 200):
        response = ask(simulator, "GET", "")
        assert response.status == 200
    assert response.headers["ratelimit"] == '"default";r=0;t=100'
    assert response.headers["ratelimit-policy"] == '"default";q=3;w=300'
    assert ask(simulator, "GET", "").headers["retry-after"] == "300"
    clock.now += 299.5
    blocked = ask(simulator, "PUT", "/webhook", {"notificationUrl": "https://a.example/"})
    assert blocked.status == 429
    assert blocked.headers["retry-after"] == "1"
    clock.now += 0.5
    assert ask(simulator, "GET", "").status == 200
    assert simulator.most_requests_in(300.0) == 4
    assert simulator.counts() == {"list videos": 5, "put webhook": 1}


def test_the_window_rolls(clock: VirtualClock) -> None:
    simulator = StreamSimulator(clock=clock, request_limit=2)
    for step in range(20):
        clock.now = START + 150 * step
        assert ask(simulator, "GET", "").status == 200


# The webhook


def test_a_video_that_is_ready_or_failed_is_told_to_the_subscriber(simulator: Simulator) -> None:
    secret = subscribe(simulator)
    good = simulator.upload(encode_seconds=5)
    bad = simulator.upload(encode_seconds=9, error_code="ERR_NON_VIDEO")
    assert simulator.due_webhooks() == []
    assert simulator.next_webhook_at == START + 5
    simulator.clock.now += 9
    first, second = simulator.due_webhooks()
    assert [first.video_uid, second.video_uid] == [good, bad]
    assert first.url == "https://a.example/"
    at = int(simulator.clock.now)
    expected = hmac.new(secret.encode(), b"%d." % at + first.body, hashlib.sha256).hexdigest()
    assert first.headers["Webhook-Signature"] == f"time={at},sig1={expected}"
    states = [json.loads(each.body)["status"]["state"] for each in (first, second)]
    assert states == ["ready", "error"]
    assert simulator.due_webhooks() == []
    assert simulator.next_webhook_at is None


def test_the_event_has_the_fields_of_cloudflares_example(simulator: Simulator) -> None:
    subscribe(simulator)
    simulator.upload()
    (webhook,) = simulator.due_webhooks()
    event = json.loads(webhook.body)
    example = load_event("video_ready")
    assert list(event) == list(example)
    for within in ("status", "meta"):
        assert list(event[within]) == list(example[within])


def test_a_webhook_can_be_lost_doubled_and_late(simulator: Simulator) -> None:
    subscribe(simulator)
    simulator.upload(webhook_delays=())
    late, twice = simulator.upload(webhook_delays=(30,)), simulator.upload(webhook_delays=(0, 60))
    again = simulator.upload()
    simulator.repeat_webhook(again, delay=10)
    simulator.clock.now += 60
    sent = [webhook.video_uid for webhook in simulator.due_webhooks()]
    assert sent == [twice, again, again, late, twice]


def test_an_unreliable_habit_depends_on_its_seed_alone() -> None:
    habits = [unreliable(7, lost=0.2, twice=0.2, late_seconds=60) for _ in range(2)]
    first, second = ([habit() for _ in range(1000)] for habit in habits)
    assert first == second
    assert {len(delays) for delays in first} == {0, 1, 2}


def test_no_webhook_is_sent_without_a_subscription_or_after_its_video_is_deleted(
    simulator: Simulator,
) -> None:
    simulator.upload()
    assert simulator.due_webhooks() == []
    subscribe(simulator)
    simulator.drop_video(simulator.upload())
    assert simulator.due_webhooks() == []


def test_only_another_url_rotates_the_secret(simulator: Simulator) -> None:
    first = subscribe(simulator)
    assert subscribe(simulator) == first
    assert subscribe(simulator, "https://b.example/") != first
    assert simulator.outbox.rotate_secret(START).secret != first
    assert result(ask(simulator, "DELETE", "/webhook")) == "ok"
    assert codes(ask(simulator, "GET", "/webhook")) == (404, [10003])
    assert codes(ask(simulator, "DELETE", "/webhook")) == (404, [10003])


@pytest.mark.parametrize(
    ("body", "code"),
    [({}, 10005), ({"notificationUrl": "ftp://a"}, 10005), ([], 10004), (None, 10004)],
)
def test_a_subscription_needs_a_url(simulator: Simulator, body: object, code: int) -> None:
    assert codes(ask(simulator, "PUT", "/webhook", body)) == (400, [code])


# Faults


def test_scripted_faults_wait_for_their_call_and_their_turn(simulator: Simulator) -> None:
    faults = [Fault.SERVER_ERROR, Fault.NOT_FOUND]
    simulator.faults.script(*faults, calls=["list videos"], skip=1, times=2)
    assert ask(simulator, "GET", "/webhook").status == 404
    statuses = [ask(simulator, "GET", "").status for _ in range(6)]
    assert statuses == [200, 500, 500, 404, 404, 200]
    twice_each = [fault for fault in faults for _ in range(2)]
    assert simulator.faults.history == [("list videos", fault) for fault in twice_each]


def test_random_faults_depend_on_their_seed_alone(clock: VirtualClock) -> None:
    def history(seed: int) -> list[tuple[str, Fault]]:
        simulator = StreamSimulator(clock=clock)
        simulator.faults.at_random(0.3, seed=seed, calls=["list videos"])
        for _ in range(200):
            ask(simulator, "GET", "")
            ask(simulator, "GET", "/webhook")
        simulator.faults.clear()
        ask(simulator, "GET", "")
        return simulator.faults.history

    assert history(1) == history(1) != history(2)
    assert 40 <= len(history(1)) <= 80
    assert {call for call, _ in history(1)} == {"list videos"}


def test_a_request_that_never_arrived_counts_for_observers_alone(simulator: Simulator) -> None:
    simulator.faults.script(Fault.RESET_BEFORE)
    ask(simulator, "GET", "")
    assert ask(simulator, "GET", "").headers["ratelimit"].startswith('"default";r=1199;')
    assert [call.status for call in simulator.calls] == [0, 200]
    assert simulator.most_requests_in() == 2
