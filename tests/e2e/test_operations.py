"""Test commands of operators, changes at Cloudflare, and the effect of time on a row."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.e2e.deployed import DAY, Deployed, Item
from tests.simulator import download_url
from tests.support.events import encoded

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def subscription(plain: Deployed) -> Iterator[None]:
    """Let a test change the subscription; restore the stack's own afterwards."""
    plain.restart("ReceiveWebhook")  # a secret may be read again only once a minute
    yield
    plain.register(force=True)
    plain.restart("ReceiveWebhook")


def test_a_deleted_download_stays_deleted_until_it_is_requested(either: Deployed) -> None:
    uid = either.upload_and_hear()
    either.poll_until("ready", uid)
    (row,) = either.manage("delete", uid, download_types=["default"])["downloads"]
    assert row["status"] == "deleting"
    assert "url" not in row
    either.poll_until("deleted", uid)
    assert "default" not in either.cloudflare.videos[uid].downloads

    either.cloudflare.repeat_webhook(uid)
    either.hear(uid, times=2)
    either.reconcile()
    either.poll()
    assert either.status(uid) == "deleted"

    (row,) = either.manage("request", uid, download_types=["default"])["downloads"]
    assert row["status"] == "requested"
    either.poll_until("ready", uid)
    assert either.creates(uid).count("default") == 2


def test_a_type_that_is_not_configured_is_made_on_request(plain: Deployed) -> None:
    uid = plain.upload_and_hear(name="talk.mp4")
    plain.manage("request", uid, download_types=["audio"])
    plain.poll_until("ready", uid, "audio")
    plain.poll_until("ready", uid, "default")
    assert plain.row(uid, "audio")["name"] == "talk.mp4"
    assert sorted(plain.creates(uid)) == ["audio", "default"]


def test_a_download_that_fails_again_and_again_ends_in_error_until_a_retry(
    plain: Deployed,
) -> None:
    uid = plain.upload_and_hear(failing_creates={"default": 4})
    for pause in (60, 300, 900):
        plain.poll_for(uid, waits_for("delete"))
        plain.pass_time(uid, seconds=pause)
    row = plain.poll_until("error", uid)
    assert row["error_code"] == "download_failed"
    assert plain.creates(uid).count("default") == 4

    assert plain.manage("retry")["retried"] >= 1
    plain.poll_until("ready", uid)
    assert plain.creates(uid).count("default") == 5


def test_a_check_finds_that_a_deployed_stack_is_as_it_should_be(either: Deployed) -> None:
    either.poll()
    either.reconcile()
    answer = either.manage("check")
    assert answer["ok"], answer
    assert len(answer["findings"]) == 9


@pytest.mark.usefixtures("subscription")
def test_signatures_stay_good_when_cloudflare_changes_the_secret(plain: Deployed) -> None:
    before = plain.upload()
    plain.hear(before)
    old_secret = plain.signing_secret()
    plain.cloudflare.outbox.rotate_secret(plain.cloudflare.clock())
    assert plain.register() | {"modified": None} == {
        "result": "kept",
        "notification_url": plain.stack.outputs["WebhookUrl"],
        "modified": None,
        "secret_stored": True,
    }
    assert plain.signing_secret() != old_secret

    # The process that knows the old secret finds the new one with the first signature under it.
    after = plain.upload_and_hear()
    plain.poll_until("ready", after)
    body = encoded(plain.cloudflare.videos[before].described(plain.cloudflare.clock()))
    assert plain.post(body, plain.sign(body, secret=old_secret)) == 200


@pytest.mark.usefixtures("subscription")
def test_a_foreign_subscription_is_taken_over_only_by_force(plain: Deployed) -> None:
    foreign = "https://other.example.com/hook"
    plain.cloudflare.outbox.subscribe(foreign, plain.cloudflare.clock())
    with pytest.raises(AssertionError, match=r"webhooks to https://other\.example\.com"):
        plain.register()
    assert plain.cloudflare.outbox.subscription
    assert plain.cloudflare.outbox.subscription.url == foreign

    answer = plain.register(force=True)
    assert answer["result"] == "replaced"
    assert answer["replaced_url"] == foreign
    assert plain.cloudflare.outbox.subscription.url == plain.stack.outputs["WebhookUrl"]
    plain.poll_until("ready", plain.upload_and_hear())


def test_a_download_that_vanished_at_cloudflare_is_made_again(plain: Deployed) -> None:
    uid = plain.upload_and_hear()
    plain.poll_until("ready", uid)
    plain.cloudflare.drop_download(uid, "default")
    plain.pass_time(uid, seconds=7 * DAY)
    plain.poll_for(uid, waits)
    assert plain.status(uid) == "ready"  # it may be a passing fault of Cloudflare's: look twice
    plain.pass_time(uid, seconds=60)
    plain.poll_until("requested", uid)
    plain.poll_until("ready", uid)
    assert plain.creates(uid) == ["default", "default"]


def test_a_download_is_deleted_at_the_end_of_its_retention(guarded: Deployed) -> None:
    uid = guarded.upload_and_hear()
    for kind in ("default", "audio"):
        assert guarded.poll_until("ready", uid, kind)["url"] == download_url(uid, kind)
    assert sorted(guarded.creates(uid)) == ["audio", "default"]
    guarded.pass_time(uid, "audio", seconds=DAY)
    guarded.poll_until("deleted", uid, "audio")
    assert guarded.status(uid, "default") == "ready"
    assert guarded.cloudflare.videos[uid].downloads.keys() == {"default"}


def waits(row: Item) -> bool:
    return bool(row["_due_at"] > time.time())


def waits_for(step: str) -> Callable[[Item], bool]:
    return lambda row: row["_work"]["step"] == step and waits(row)
