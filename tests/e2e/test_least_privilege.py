"""Check that each function has every permission that it needs, and no other."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.deployed import Deployed
from tests.support.events import encoded
from tests.support.template import template

if TYPE_CHECKING:
    from collections.abc import Iterator

Scenario = Callable[[Deployed], None]


# --- What each function is there for ----------------------------------------------------------


def a_webhook_is_recorded(deployed: Deployed) -> None:
    deployed.upload_and_hear()


def a_webhook_leads_to_a_create_at_once(deployed: Deployed) -> None:
    uid = deployed.upload_and_hear(generation_seconds=60.0)
    assert deployed.status(uid) == "inprogress"


def a_webhook_starts_a_run(deployed: Deployed) -> None:
    deployed.free_poller()
    deployed.upload_and_hear()
    a_run_was_started(deployed, "ReceiveWebhook")


def a_reconciliation_starts_a_run(deployed: Deployed) -> None:
    deployed.upload(webhook_delays=())
    deployed.free_poller()
    deployed.reconcile()
    a_run_was_started(deployed, "ReconcileLibrary")


def a_run_was_started(deployed: Deployed, by: str) -> None:
    lines = [line["message"] for line in deployed.stack.log(by)[-5:]]
    assert not [line for line in lines if "No run of the poller could be started" in line]


def a_webhook_meets_a_row_that_changes(deployed: Deployed) -> None:
    with row_that_changes_all_the_time(deployed) as uid:
        body = encoded(deployed.cloudflare.videos[uid].described(deployed.cloudflare.clock()))
        assert deployed.post(body, deployed.sign(body)) == 500
        assert deployed.stack.log("ReceiveWebhook")[-1]["error"] == "LostRace"


def a_poll_makes_a_download_ready(deployed: Deployed) -> None:
    uid = deployed.upload_and_hear()
    deployed.poll()
    assert deployed.status(uid) == "ready"


def a_poll_begins(deployed: Deployed) -> None:
    deployed.free_poller()
    deployed.poll()


def a_poll_hears_of_a_download_that_was_not_due(deployed: Deployed) -> None:
    uid = deployed.upload_and_hear(generation_seconds={"default": 0.0, "audio": 600.0})
    deployed.poll()
    assert deployed.status(uid, "default") == "ready"
    assert deployed.status(uid, "audio") == "inprogress"


def a_reconciliation_finds_a_video(deployed: Deployed) -> None:
    uid = deployed.upload(webhook_delays=())
    deployed.reconcile()
    assert (uid, "default") in deployed.rows()  # the poller may have created it already


def a_reconciliation_meets_a_row_that_changes(deployed: Deployed) -> None:
    with row_that_changes_all_the_time(deployed):
        deployed.reconcile()
        log = deployed.stack.log("ReconcileLibrary")
        assert "LostRace" in [line.get("error") for line in log[-5:]]


def the_stack_is_summed_up(deployed: Deployed) -> None:
    deployed.manage("status")


def a_stack_with_a_due_download_is_summed_up(deployed: Deployed) -> None:
    uid = deployed.upload_and_hear(generation_seconds=600.0)
    deployed.pass_time(uid, seconds=60)
    deployed.manage("status")


def a_video_is_looked_up(deployed: Deployed) -> None:
    deployed.manage("status", deployed.upload_and_hear())


def a_download_is_requested(deployed: Deployed) -> None:
    deployed.manage("request", deployed.upload(webhook_delays=()))


def a_link_is_given(deployed: Deployed) -> None:
    uid = deployed.upload_and_hear(private=True)
    deployed.poll_until("ready", uid)
    assert deployed.cloudflare.fetch(deployed.manage("link", uid)["url"]) == 200


def the_installation_is_checked(deployed: Deployed) -> None:
    findings = {each["check"]: each for each in deployed.manage("check")["findings"]}
    assert findings["signing_secret"]["ok"], findings["signing_secret"]


def a_new_secret_is_stored(deployed: Deployed) -> None:
    outbox = deployed.cloudflare.outbox
    before, after = outbox.subscription, outbox.rotate_secret(deployed.cloudflare.clock())
    try:
        deployed.register()
        assert deployed.signing_secret() == after.secret
    except AssertionError:
        outbox.subscription = (
            before  # the stack does not know the new secret: nothing may be signed with it
        )
        raise
    deployed.restart("ReceiveWebhook")  # a secret may be read again only once a minute


def a_guest_stores_the_owners_new_secret(deployed: Deployed) -> None:
    uid = deployed.upload(webhook_delays=())
    body = encoded(deployed.cloudflare.videos[uid].described(deployed.cloudflare.clock()))
    outbox = deployed.cloudflare.outbox
    ours = outbox.subscription
    outbox.subscribe("https://owner.example.com/hook", deployed.cloudflare.clock())
    try:
        deployed.register(subscribe=False)
        changed = outbox.rotate_secret(deployed.cloudflare.clock()).secret
        assert deployed.post(body, deployed.sign(body, secret=changed)) == 200
        assert deployed.signing_secret() == changed
    finally:
        outbox.subscription = ours
        deployed.register()
        deployed.restart("ReceiveWebhook")


def a_subscription_is_kept(deployed: Deployed) -> None:
    deployed.register()


def an_end_is_announced(deployed: Deployed) -> None:
    key = {"video_uid": {"S": "0" * 32}, "download_type": {"S": "default"}}
    change = {
        "Keys": key,
        "NewImage": {**key, "status": {"S": "ready"}},
        "OldImage": {**key, "status": {"S": "inprogress"}},
        "SequenceNumber": "1",
    }
    answer = deployed.stack.client("lambda").invoke(
        FunctionName=deployed.stack.physical_id("AnnounceDownloadsFunction"),
        Payload=json.dumps({"Records": [{"eventName": "MODIFY", "dynamodb": change}]}),
    )
    assert "FunctionError" not in answer


def cold(function: str, scenario: Scenario) -> Scenario:
    """Return the same action in a cold function, which has no secret in memory."""

    @functools.wraps(scenario)
    def begin(deployed: Deployed) -> None:
        deployed.restart(function)
        scenario(deployed)

    return begin


NEEDED: Final[Mapping[str, Mapping[str, Scenario]]] = {
    "ReceiveWebhook": {
        "StartPoller": cold("ReceiveWebhook", a_webhook_starts_a_run),
        "ReadDownload": a_webhook_meets_a_row_that_changes,
        "WriteDownload": a_webhook_is_recorded,
        "ReadControl": a_webhook_leads_to_a_create_at_once,
        "WriteControl": a_webhook_leads_to_a_create_at_once,
        "ReadCredentials": cold("ReceiveWebhook", a_webhook_leads_to_a_create_at_once),
        "ReadWebhookSecret": cold("ReceiveWebhook", a_webhook_is_recorded),
        "StoreWebhookSecret": cold("ReceiveWebhook", a_guest_stores_the_owners_new_secret),
    },
    "PollDownloads": {
        "FindDueDownloads": a_poll_makes_a_download_ready,
        "ReadDownloadsOfVideo": a_poll_hears_of_a_download_that_was_not_due,
        "ReadDueDownloads": a_poll_makes_a_download_ready,
        "WriteDownload": a_poll_makes_a_download_ready,
        "ReadControl": a_poll_begins,
        "WriteControl": a_poll_begins,
        "ReadCredentials": cold("PollDownloads", a_poll_makes_a_download_ready),
    },
    "ReconcileLibrary": {
        "StartPoller": cold("ReconcileLibrary", a_reconciliation_starts_a_run),
        "ReadDownloads": a_reconciliation_finds_a_video,
        "ReadDownload": a_reconciliation_meets_a_row_that_changes,
        "WriteDownload": a_reconciliation_finds_a_video,
        "ReadControl": a_reconciliation_finds_a_video,
        "WriteControl": a_reconciliation_finds_a_video,
        "ReadCredentials": cold("ReconcileLibrary", a_reconciliation_finds_a_video),
    },
    "ManageDownloads": {
        "FindDueDownloads": the_stack_is_summed_up,
        "FindDownloadsByStatus": the_stack_is_summed_up,
        "ReadDueDownloads": a_stack_with_a_due_download_is_summed_up,
        "ReadDownloadsOfVideo": a_video_is_looked_up,
        "ReadDownload": a_link_is_given,
        "WriteDownload": a_download_is_requested,
        "ReadControl": the_stack_is_summed_up,
        "WriteControl": a_link_is_given,
        "ReadCredentials": cold("ManageDownloads", a_link_is_given),
        "ReadWebhookSecret": the_installation_is_checked,
    },
    "AnnounceDownloads": {"PutEvents": an_end_is_announced},
    "RegisterWebhook": {
        "ReadControl": a_subscription_is_kept,
        "WriteControl": a_subscription_is_kept,
        "ReadCredentials": cold("RegisterWebhook", a_subscription_is_kept),
        "ReadWebhookSecret": a_subscription_is_kept,
        "StoreWebhookSecret": a_new_secret_is_stored,
    },
}


def test_every_statement_of_the_template_is_tried() -> None:
    functions = {
        name.removesuffix("Function"): resource["Properties"]["Policies"][0]
        for name, resource in template()["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }
    # Without KMS on the emulator, what is allowed under a condition has its test on the template.
    statements = {
        name: [statement["Sid"] for statement in policy["Statement"] if "If" not in statement]
        for name, policy in functions.items()
    }
    assert statements == {name: list(scenarios) for name, scenarios in NEEDED.items()}


# Each once: what works in a cold function works in a warm one.
SCENARIOS: Final = {
    inspect.unwrap(scenario): scenario for needed in NEEDED.values() for scenario in needed.values()
}


@pytest.mark.parametrize("scenario", SCENARIOS.values())
def test_a_function_works_with_its_role(guarded: Deployed, scenario: Scenario) -> None:
    scenario(guarded)


@pytest.mark.parametrize(
    ("function", "statement"),
    [(function, statement) for function, needed in NEEDED.items() for statement in needed],
)
def test_a_function_fails_without_a_statement_of_its_role(
    guarded: Deployed, function: str, statement: str
) -> None:
    with without(guarded, function, statement), pytest.raises(AssertionError):
        twice(NEEDED[function][statement], guarded)


def twice(scenario: Scenario, deployed: Deployed) -> None:
    """Run a scenario twice.

    While a scheduled run holds the lease, a function starts none, and does not need to be allowed.
    """
    for _ in range(2):
        scenario(deployed)


@contextmanager
def without(deployed: Deployed, function: str, statement: str) -> Iterator[None]:
    """Take a statement from a function's role, for a while."""
    iam = deployed.stack.client("iam")
    role = deployed.stack.physical_id(f"{function}FunctionRole")
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        rest = [other for other in policy["Statement"] if other.get("Sid") != statement]
        if len(rest) < len(policy["Statement"]):
            break
    else:
        raise LookupError(f"the role of {function} has no statement {statement}")

    def put(document: Mapping[str, Any]) -> None:
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))

    put({**policy, "Statement": rest or [{**NOTHING, "Resource": "*"}]})
    try:
        yield
    finally:
        put(policy)


# A policy has at least one statement.
NOTHING: Final = {"Effect": "Deny", "Action": "dynamodb:DeleteTable"}


@contextmanager
def row_that_changes_all_the_time(deployed: Deployed) -> Iterator[str]:
    """Yield a failed video that is ready now, whose row another writer keeps changing."""
    uid = deployed.upload_and_hear(error_code="ERR_NON_VIDEO")
    video = deployed.cloudflare.videos[uid]
    video.upload = replace(video.upload, error_code=None)
    for kind in ("default", "audio"):
        deployed.update(uid, kind, "REMOVE #_version")
    try:
        yield uid
    finally:
        for kind in ("default", "audio"):
            deployed.delete(uid, kind)
        deployed.cloudflare.drop_video(uid)
