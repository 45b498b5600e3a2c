"""Check that each function has every permission that it needs, and no other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.deployed import Deployed
from tests.support.deployment import REGION
from tests.support.events import encoded
from tests.support.template import template

if TYPE_CHECKING:
    from collections.abc import Iterator

Scenario = Callable[[Deployed], None]
Call = tuple[str, str]  # the action and the resource of IAM


# --- What each function is there for ----------------------------------------------------------


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


def a_poll_hears_of_a_download_that_was_not_due(deployed: Deployed) -> None:
    uid = deployed.upload_and_hear(generation_seconds={"default": 0.0, "audio": 600.0})
    deployed.poll()
    assert deployed.status(uid, "default") == "ready"
    assert deployed.status(uid, "audio") == "inprogress"


def a_reconciliation_finds_a_video(deployed: Deployed) -> None:
    uid = deployed.upload(webhook_delays=())
    deployed.reconcile()
    assert (uid, "default") in deployed.stack.rows()  # the poller may have created it already


def a_reconciliation_meets_a_row_that_changes(deployed: Deployed) -> None:
    with row_that_changes_all_the_time(deployed):
        deployed.reconcile()
        log = deployed.stack.log("ReconcileLibrary")
        assert "LostRace" in [line.get("error") for line in log[-5:]]


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
    assert deployed.cloudflare.fetch(deployed.poll_until("ready", uid)["url"]) == 401
    assert deployed.cloudflare.fetch(deployed.manage("link", uid)["url"]) == 200


def the_installation_is_checked(deployed: Deployed) -> None:
    findings = {each["check"]: each for each in deployed.manage("check")["findings"]}
    assert findings["signing_secret"]["ok"], findings["signing_secret"]


def a_new_secret_is_stored(deployed: Deployed) -> None:
    outbox = deployed.cloudflare.outbox
    changed = outbox.rotate_secret(deployed.cloudflare.clock()).secret
    deployed.register()
    assert deployed.signing_secret() == changed
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


_CREATE_OR_LIST = "WriteDownload ReadControl WriteControl ReadCredentials"
# By function: what it does, and the statements of its role that this uses.
NEEDED: Final[Mapping[str, Mapping[Scenario, str]]] = {
    "ReceiveWebhook": {
        a_webhook_starts_a_run: "StartPoller",
        a_webhook_meets_a_row_that_changes: "ReadDownload",
        a_webhook_leads_to_a_create_at_once: f"{_CREATE_OR_LIST} ReadWebhookSecret",
        a_guest_stores_the_owners_new_secret: "StoreWebhookSecret",
    },
    "PollDownloads": {
        a_poll_makes_a_download_ready: f"{_CREATE_OR_LIST} FindDueDownloads ReadDueDownloads",
        a_poll_hears_of_a_download_that_was_not_due: "ReadDownloadsOfVideo",
    },
    "ReconcileLibrary": {
        a_reconciliation_starts_a_run: "StartPoller",
        a_reconciliation_finds_a_video: f"{_CREATE_OR_LIST} ReadDownloads",
        a_reconciliation_meets_a_row_that_changes: "ReadDownload",
    },
    "ManageDownloads": {
        a_stack_with_a_due_download_is_summed_up: (
            "FindDueDownloads FindDownloadsByStatus ReadDueDownloads"
        ),
        a_video_is_looked_up: "ReadDownloadsOfVideo",
        a_download_is_requested: "WriteDownload",
        a_link_is_given: "ReadDownload ReadControl WriteControl ReadCredentials",
        the_installation_is_checked: "ReadWebhookSecret",
    },
    "AnnounceDownloads": {an_end_is_announced: "PutEvents"},
    "RegisterWebhook": {
        a_new_secret_is_stored: (
            "ReadControl WriteControl ReadCredentials ReadWebhookSecret StoreWebhookSecret"
        ),
    },
}


def test_every_statement_of_the_template_is_used_and_allows_one_call() -> None:
    functions = {
        name.removesuffix("Function"): resource["Properties"]["Policies"][0]["Statement"]
        for name, resource in template()["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }
    for name, policy in functions.items():
        # What is allowed under a condition has its test on the template: the emulator has no KMS.
        statements = [statement for statement in policy if "If" not in statement]
        used = " ".join(NEEDED[name].values()).split()
        assert sorted(statement["Sid"] for statement in statements) == sorted(used)
        assert {statement["Effect"] for statement in statements} == {"Allow"}
        # tests/unit/test_template.py checks that each is about one action and one resource.
        allowed = {f"{statement['Action']} {statement['Resource']}" for statement in statements}
        assert len(allowed) == len(statements)


# The emulator records a call only if it is allowed. No other statement allows the same call: so a
# function needs each statement whose call it has made.
@pytest.mark.parametrize(
    ("function", "scenario"),
    [(function, scenario) for function, scenarios in NEEDED.items() for scenario in scenarios],
)
def test_a_function_works_with_its_role_and_uses_each_statement(
    guarded: Deployed, function: str, scenario: Scenario
) -> None:
    _, policies = inline_policies(guarded, function)
    allowed = {
        statement.get("Sid"): (statement["Action"], statement.get("Resource"))
        for policy in policies.values()
        for statement in policy["Statement"]
    }
    needed = {allowed[sid] for sid in NEEDED[function][scenario].split()}
    for _ in range(2):  # as `twice`
        began = time.time()
        guarded.restart(function)  # it has no secret in memory
        scenario(guarded)
        missing = needed - calls_of(guarded, function, {action for action, _ in needed}, began)
        if not missing:
            return
    pytest.fail(f"not recorded: {missing}")


@pytest.mark.parametrize(
    ("statement", "scenario"),
    [
        ("StartPoller", a_webhook_starts_a_run),
        ("ReadControl", a_webhook_leads_to_a_create_at_once),
        ("ReadWebhookSecret", a_webhook_leads_to_a_create_at_once),
    ],
)
def test_a_function_fails_without_a_statement_of_its_role(
    guarded: Deployed, statement: str, scenario: Scenario
) -> None:
    guarded.restart("ReceiveWebhook")
    with without(guarded, "ReceiveWebhook", statement), pytest.raises(AssertionError):
        twice(scenario, guarded)


def twice(scenario: Scenario, deployed: Deployed) -> None:
    """Run a scenario twice: a function starts no run while a scheduled one holds the lease."""
    for _ in range(2):
        scenario(deployed)


def calls_of(
    deployed: Deployed, function: str, actions: Collection[str], since: float
) -> set[Call]:
    """Return the calls of a function that CloudTrail has recorded since then, of these actions."""
    keys = access_keys_of(deployed, function)
    trail, recorded = deployed.stack.client("cloudtrail"), set()
    for action in actions:
        # The action of an Invoke is InvokeFunction.
        name = action.partition(":")[2].removesuffix("Function")
        by_name = [{"AttributeKey": "EventName", "AttributeValue": name}]
        # The emulator returns the last fifty, and boto3 asks for whole seconds.
        for event in trail.lookup_events(LookupAttributes=by_name, StartTime=since)["Events"]:
            if event["Username"] in keys and event["EventTime"].timestamp() >= since:
                recorded.add((action, resource_of(event)))
    return recorded


def resource_of(event: Mapping[str, Any]) -> str:
    """Return the ARN of the resource of a recorded call."""
    given = json.loads(event["CloudTrailEvent"])["requestParameters"]
    match event["EventSource"].partition(".")[0]:
        case "dynamodb":
            table = given.get("TableName") or next(iter(given["RequestItems"]))
            index = f"/index/{given['IndexName']}" if "IndexName" in given else ""
            return arn("dynamodb", f"table/{table}{index}")
        case "events":
            return arn("events", f"event-bus/{given['Entries'][0]['EventBusName']}")
        case "lambda":
            return arn("lambda", f"function:{event['Resources'][0]['ResourceName']}")
        case "secretsmanager":
            return str(given["SecretId"])
    raise LookupError(event["EventSource"])


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:000000000000:{resource}"


def access_keys_of(deployed: Deployed, function: str) -> set[str]:
    """Return the ids of the access keys that the emulator gives the versions of a function.

    It makes them from the ARNs of function and role (`execution_credentials` of Ministack).
    """
    functions = deployed.stack.client("lambda")
    name = deployed.stack.physical_id(f"{function}Function")
    versions = functions.get_paginator("list_versions_by_function").paginate(FunctionName=name)
    found = [version for page in versions for version in page["Versions"]]
    owners = [f"{version['FunctionArn']}:{version['Role']}" for version in found]
    # The latest version may be invoked by the name of the function alone.
    owners += [owner.replace(":$LATEST:", ":") for owner in owners]
    return {f"ASIA{sha256(owner.encode()).hexdigest()[:16].upper()}" for owner in owners}


@contextmanager
def without(deployed: Deployed, function: str, statement: str) -> Iterator[None]:
    """Take a statement from a function's role, for a while."""
    role, policies = inline_policies(deployed, function)
    sids = {name: [one.get("Sid") for one in each["Statement"]] for name, each in policies.items()}
    names = [name for name in policies if statement in sids[name]]
    if not names:
        raise LookupError(f"the role of {function} has no statement {statement}")
    policy = policies[names[0]]
    rest = [one for one in policy["Statement"] if one.get("Sid") != statement]

    put = partial(deployed.stack.client("iam").put_role_policy, RoleName=role, PolicyName=names[0])
    put(PolicyDocument=json.dumps({**policy, "Statement": rest}))
    try:
        yield
    finally:
        put(PolicyDocument=json.dumps(policy))


def inline_policies(deployed: Deployed, function: str) -> tuple[str, Mapping[str, Any]]:
    """Return the role of a function, and its inline policies by name."""
    iam = deployed.stack.client("iam")
    role = deployed.stack.physical_id(f"{function}FunctionRole")
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policies = {name: iam.get_role_policy(RoleName=role, PolicyName=name) for name in names}
    return role, {name: policy["PolicyDocument"] for name, policy in policies.items()}


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
