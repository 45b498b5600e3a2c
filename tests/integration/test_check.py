"""``{"action": "check"}``: each thing that can be wrong with an installation, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from functions.manage_downloads import app
from stream_downloads.adapters.secrets import ApiCredentials, SecretUnavailable
from stream_downloads.services.check import REQUEST_SECONDS, Installation, ago, check
from stream_downloads.services.dependencies import Service
from stream_downloads.services.manage import STOP_BEFORE_TIMEOUT
from stream_downloads.services.signing_secret import GUEST, REGISTRATION
from tests.integration.conftest import WEBHOOK_SECRET
from tests.simulator import Fault, StreamSimulator
from tests.support.events import LambdaContext, load_event
from tests.support.rows import requested
from tests.support.secrets_manager import SecretsManager
from tests.support.template import template
from tests.support.world import WEBHOOK_URL, World

Findings = dict[str, dict[str, Any]]

FOREIGN = "https://other.example.com/hook"
ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:cloudflare-AbCdEf"
OTHERS = ["account", "permission", "subscription", "signing_secret"]
CHECKS = ["credentials", *OTHERS, "poll", "reconciliation", "gate", "oldest_due"]


@pytest.fixture
def world() -> World:
    """Return a stack that has been running, and has just polled and reconciled."""
    world = World()
    world.reconcile()
    world.poll()
    return world


def installation(world: World, **settings: Any) -> Installation:
    subscription = world.simulator.outbox.subscription
    secret = subscription.secret.encode() if subscription else b"never-replaced"
    given: dict[str, Any] = {
        "webhook_url": WEBHOOK_URL,
        "signing_secret": lambda: secret,
        "reconcile_minutes": 60.0,
    }
    return Installation(**{**given, **settings})


def findings(world: World, remaining: float = 30.0, **settings: Any) -> Findings:
    """Check, with the seconds that the function has, and settings that differ."""
    ends_at = world.clock() + remaining
    answer = check(world.service, installation(world, **settings), lambda: ends_at - world.clock())
    assert answer["ok"] is all(finding["ok"] for finding in answer["findings"])
    return by_name(answer)


def by_name(answer: dict[str, Any]) -> Findings:
    assert [finding["check"] for finding in answer["findings"]] == CHECKS
    for finding in answer["findings"]:
        assert finding["detail"].endswith("."), finding
        assert ("fix" in finding) is not finding["ok"], finding
    return {finding["check"]: finding for finding in answer["findings"]}


def wrong(found: Findings) -> list[str]:
    return [name for name, finding in found.items() if not finding["ok"]]


def another_subscribes(world: World) -> None:
    world.simulator.outbox.subscribe(FOREIGN, world.clock())


def no_receiver_is_subscribed(world: World) -> None:
    world.simulator.outbox.subscription = None


def refused(world: World, fault: Fault, call: str) -> None:
    world.simulator.faults.script(fault, calls=[call], times=5)


def test_an_installation_without_a_fault_is_ok(world: World) -> None:
    found = findings(world)
    assert wrong(found) == []
    assert len(found) == 9


FAULTS: dict[str, tuple[Callable[[World], object], list[str], str, str]] = {
    # What is wrong: how it comes about, the findings that are not ok, and of the first of them
    # a part of its detail and of its fix.
    "an invalid token": (
        lambda world: refused(world, Fault.UNAUTHORIZED, "list videos"),
        ["credentials", *OTHERS],
        "does not accept the credentials: Cloudflare answered 401 (10000",
        "Create an API token with the permission Stream: Edit",
    ),
    "a malformed token": (
        lambda world: refused(world, Fault.MALFORMED_CREDENTIALS, "list videos"),
        ["credentials", *OTHERS],
        "6003",
        "Store {",
    ),
    "a token without permission, or another account": (
        lambda world: refused(world, Fault.FORBIDDEN, "list videos"),
        OTHERS,
        "Not checked: Cloudflare refuses to list",
        "See the finding permission",
    ),
    "the id of no account": (
        lambda world: refused(world, Fault.NOT_FOUND, "list videos"),
        OTHERS,
        "Cloudflare does not know the account: Cloudflare answered 404 (10003",
        "CloudflareAccountId",
    ),
    "a token that may only read": (
        lambda world: refused(world, Fault.FORBIDDEN, "create download"),
        ["permission"],
        "lists videos, but refuses to edit: Cloudflare answered 403",
        "Stream: Edit",
    ),
    "no subscription": (
        no_receiver_is_subscribed,
        ["subscription"],
        "to nobody. The reconciliation finds new videos, every 60 minutes.",
        "Invoke RegisterWebhook with {}. Or deploy with ReconcileMinutes from 1 to 10",
    ),
    "a closed gate": (
        lambda world: world.budget.close(100.0),
        ["credentials", *OTHERS, "gate"],
        "Not checked: Cloudflare's rate limit was reached: try again after 2027-01-15T08",
        "Check again",
    ),
    "a budget that is used up": (
        World.use_up_budget,
        ["credentials", *OTHERS],
        "Not checked: The requests of these five minutes are used up",
        "Check again",
    ),
    "a 429": (
        lambda world: refused(world, Fault.THROTTLED, "get webhook"),
        ["subscription", "signing_secret"],
        "Not checked: Cloudflare answered 429",
        "Check again",
    ),
    "a fault of Cloudflare's": (
        lambda world: refused(world, Fault.SERVER_ERROR, "get webhook"),
        ["subscription", "signing_secret"],
        "Not checked: get webhook: Cloudflare answered 500",
        "Check again",
    ),
    "a Cloudflare that cannot be reached": (
        lambda world: refused(world, Fault.CANNOT_CONNECT, "list videos"),
        ["credentials", *OTHERS],
        "Not checked: list videos: NewConnectionError",
        "Check again",
    ),
    "no poll for long": (
        lambda world: world.clock.sleep(181),
        ["poll"],
        "ended 3 minutes ago, at 2027-",
        "whether the schedule of PollDownloads is enabled",
    ),
    "a download that is due for long": (
        lambda world: world.downloads.add(replace(requested(), work=overdue(world))),
        ["oldest_due"],
        "has been so since 2027-01-15T07:4",
        '{"action": "status"}',
    ),
}


def overdue(world: World) -> Any:
    work = requested().work
    assert work
    return replace(work, due_at=world.clock() - 901)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_found_alone_and_says_what_to_do(world: World, fault: str) -> None:
    begin, expected, detail, fix = FAULTS[fault]
    begin(world)
    found = findings(world)
    assert wrong(found) == expected
    assert detail in found[expected[0]]["detail"]
    assert fix in found[expected[0]]["fix"]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault.UNAUTHORIZED, "credentials"),
        (Fault.NOT_FOUND, "account"),
        (Fault.FORBIDDEN, "permission"),
    ],
)
def test_what_cannot_be_checked_for_a_reason_leads_to_it(
    world: World, fault: Fault, cause: str
) -> None:
    refused(world, fault, "list videos")
    found = findings(world)
    effects = [name for name in wrong(found) if name != cause]
    assert {found[name]["fix"] for name in effects} == {f"See the finding {cause}."}
    assert "Not checked" not in found[cause]["detail"]


def test_a_check_writes_nothing_and_asks_cloudflare_three_times(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=())
    sent = len(world.simulator.calls)
    records = dict(world.control._records)
    findings(world)
    calls = [call.name for call in world.simulator.calls[sent:]]
    assert calls == ["list videos", "create download", "get webhook"]
    assert world.simulator.videos[uid].downloads == {}
    assert world.downloads.rows == {}
    changed = {name for name, kept in world.control._records.items() if records.get(name) != kept}
    assert changed == {"budget"}


@pytest.mark.parametrize(
    ("url", "knows_secret", "minutes", "ok", "detail"),
    [
        (WEBHOOK_URL.rstrip("/"), True, 60, True, "to this stack"),
        (FOREIGN, True, 60, True, f"to {FOREIGN}. This stack knows their signing secret"),
        (FOREIGN, False, 60, False, f"to {FOREIGN}. The reconciliation"),
        (FOREIGN, False, 11, False, "every 11 minutes."),
        (FOREIGN, False, 10, True, "every 10 minutes."),
        (None, False, 1, True, "to nobody. The reconciliation finds new videos, every 1 minute."),
        (None, False, 11, False, "to nobody."),
    ],
)
def test_each_way_to_hear_of_new_videos_is_ok(
    world: World, url: str | None, *, knows_secret: bool, minutes: int, ok: bool, detail: str
) -> None:
    world.simulator.outbox.subscription = None
    if url:
        world.simulator.outbox.subscribe(url, world.clock())
    settings: dict[str, Any] = {"reconcile_minutes": float(minutes)}
    if not knows_secret:
        settings["signing_secret"] = lambda: b"another"
    found = findings(world, **settings)
    assert found["subscription"]["ok"] is ok
    assert detail in found["subscription"]["detail"]
    assert found["signing_secret"]["ok"]


def test_a_foreign_subscription_names_the_three_ways_out(world: World) -> None:
    another_subscribes(world)
    fix = findings(world, signing_secret=lambda: b"another")["subscription"]["fix"]
    for way in ('{"force": true}', '{"subscribe": false}', "ReconcileMinutes from 1 to 10"):
        assert way in fix


def test_a_guest_that_does_not_know_the_owners_new_secret_takes_nothing_over(world: World) -> None:
    another_subscribes(world)
    world.control.write(REGISTRATION, {"position": GUEST}, 1)
    fix = findings(world, signing_secret=lambda: b"the owner's last")["subscription"]["fix"]
    assert '{"subscribe": false}' in fix
    assert "force" not in fix


def test_a_signing_secret_that_differs_is_found_and_neither_is_shown(world: World) -> None:
    found = findings(world, signing_secret=lambda: b"stored-before")
    assert wrong(found) == ["signing_secret"]
    assert "Invoke RegisterWebhook with {}" in found["signing_secret"]["fix"]
    subscription = world.simulator.outbox.subscription
    assert subscription
    said = json.dumps(found)
    assert subscription.secret not in said
    assert "stored-before" not in said


def test_a_signing_secret_that_cannot_be_read_is_said(world: World) -> None:
    def unreadable() -> bytes:
        raise SecretUnavailable("secret arn: it cannot be read")

    found = findings(world, signing_secret=unreadable)
    assert wrong(found) == ["signing_secret"]
    assert "RegisterWebhook" in found["signing_secret"]["fix"]


def test_a_stack_that_has_never_run_says_so() -> None:
    found = findings(World())
    assert wrong(found) == ["poll", "reconciliation"]
    assert "No run of PollDownloads" in found["poll"]["detail"]
    assert "No reconciliation" in found["reconciliation"]["detail"]


def test_only_a_run_that_came_to_its_end_counts_as_a_poll(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock.sleep(181)

    def fail(*_: object) -> Any:
        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "Query")

    with monkeypatch.context() as broken:
        broken.setattr(world.downloads, "due", fail)
        with pytest.raises(ClientError):
            world.poll()
    assert "3 minutes ago" in findings(world)["poll"]["detail"]
    world.credentials.in_memory = world.credentials.stored = ""
    world.downloads.add(requested())
    assert "credentials" in world.poll().ended
    assert findings(world)["poll"]["ok"]  # NoPollAlarm counts this run as well


@pytest.mark.parametrize(
    ("minutes", "age", "ok"),
    [(60, 7190, True), (60, 7260, False), (1, 590, True), (1, 660, False)],
)
def test_a_reconciliation_is_overdue_after_two_periods_and_ten_minutes_at_least(
    world: World, minutes: int, age: float, *, ok: bool
) -> None:
    world.clock.sleep(age)
    found = findings(world, reconcile_minutes=float(minutes))
    assert found["reconciliation"]["ok"] is ok


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE, Fault.SLOW_HEAD, Fault.SLOW_BODY])
@pytest.mark.parametrize("call", ["list videos", "create download", "get webhook"])
def test_an_answer_comes_in_time_even_if_cloudflare_hangs(
    world: World, fault: Fault, call: str
) -> None:
    refused(world, fault, call)
    began = world.clock()
    found = findings(world)
    assert world.clock() - began < 12
    assert {"permission", "subscription"} & set(wrong(found))
    assert {"poll", "gate"}.isdisjoint(wrong(found))


def test_an_answer_comes_in_time_however_little_is_left(world: World) -> None:
    found = findings(world, remaining=11.0)
    assert wrong(found) == CHECKS
    assert found["gate"]["detail"] == "Not checked: the function's time was over."


def test_a_check_that_fails_hides_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise EndpointConnectionError(endpoint_url="https://dynamodb")

    monkeypatch.setattr(world.downloads, "due", fail)
    found = findings(world)
    assert wrong(found) == ["oldest_due"]
    assert "Could not connect" in found["oldest_due"]["detail"]


DENIED = "AccessDeniedException"


@pytest.mark.parametrize(
    ("stored", "code", "message", "detail", "fix"),
    [
        (None, DENIED, "Access to KMS is not allowed", "KMS", "CloudflareSecretKmsKeyArn, the ARN"),
        (None, DENIED, "User is not authorized", DENIED, "Allow the role of ManageDownloads"),
        (None, "ResourceNotFoundException", "no", "cannot be read", "that has a value"),
        (None, "InvalidRequestException", "no", "cannot be read", "restore-secret"),
        (None, "InternalServiceError", "no", "cannot be read", "Check again in a minute"),
        ("token", None, None, "not a JSON object", 'Store {"api_token": "…"}'),
        ('{"token": "t"}', None, None, 'has no "api_token"', 'Store {"api_token": "…"}'),
        ('{"api_token": "t\\n"}', None, None, "line break", 'Store {"api_token": "…"}'),
    ],
)
def test_credentials_that_cannot_be_used_are_read_again_and_explained(
    world: World, stored: str | None, code: str | None, message: str, detail: str, fix: str
) -> None:
    secrets: Any = SecretsManager()
    secrets.store(ARN, {"api_token": world.simulator.settings.api_token})
    world.service.gateway._credentials = ApiCredentials(secrets, ARN, world.clock)
    assert findings(world)["credentials"]["ok"]
    if code:
        secrets.fail(ClientError({"Error": {"Code": code, "Message": message}}, "GetSecretValue"))
    else:
        secrets.store(ARN, stored)
    sent = len(world.simulator.calls)
    found = findings(world)
    assert wrong(found) == ["credentials", *OTHERS]
    assert detail in found["credentials"]["detail"]
    assert fix in found["credentials"]["fix"]
    for name in OTHERS:
        assert found[name]["detail"] == "Not checked: the credentials cannot be used."
        assert found[name]["fix"] == "See the finding credentials."
    assert len(world.simulator.calls) == sent


def test_the_deployed_function_checks_with_what_the_template_gives_it(
    service: Service, simulator: StreamSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SERVICE", service)
    simulator.outbox.subscribe(app.INSTALLATION.webhook_url, simulator.clock())
    answer = app.lambda_handler(load_event("manage_downloads_check"), LambdaContext())
    found = by_name(answer)
    assert wrong(found) == ["signing_secret", "poll", "reconciliation"]
    subscription = simulator.outbox.subscription
    assert subscription
    simulator.outbox.subscription = replace(subscription, secret=WEBHOOK_SECRET)
    assert by_name(app.lambda_handler({"action": "check"}, LambdaContext()))["signing_secret"]["ok"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 seconds ago, at"),
        (1, "1 second ago, at"),
        (119, "1 minute ago, at"),
        (7300, "2 hours ago, at"),
        (90_000, "1 day ago, at"),
    ],
)
def test_an_age_is_said_in_its_largest_unit(seconds: float, said: str) -> None:
    assert ago(1_800_000_000.0, 1_800_000_000.0 + seconds).startswith(said)


def test_three_slow_requests_fit_into_the_time_of_the_function() -> None:
    timeout = template()["Resources"]["ManageDownloadsFunction"]["Properties"]["Timeout"]
    assert timeout >= 3 * REQUEST_SECONDS + STOP_BEFORE_TIMEOUT
