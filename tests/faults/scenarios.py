"""List the scenarios in which every I/O call fails in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stream_downloads.domain.commands import Registration
from tests.faults.sandbox import DEADLY, Blow, Sandbox
from tests.faults.stage import Stage
from tests.simulator import Fault, Webhook

Act = Callable[[Stage], list[Webhook]]


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    Attributes:
        prepare: the part without failures.
        act: the part with a failure; returns the webhooks that Cloudflare may send again.
        deletes: True if every download ends deleted; else it ends as its video lets it.
        stage: the settings of the stack.
        only: the failures that are tried, if not all.
    """

    prepare: Callable[[Stage], None]
    act: Act
    deletes: bool = False
    stage: dict[str, float | bool] = field(default_factory=dict)
    only: tuple[Blow, ...] = tuple(Blow)


def repeated(run: Callable[[Stage], None], times: int, apart: float) -> Act:
    """Return an act that calls ``run`` that many times, and waits so many seconds after each."""

    def act(stage: Stage) -> list[Webhook]:
        for _ in range(times):
            run(stage)
            stage.clock.sleep(apart)
        return []

    return act


poll = repeated(Stage.poll, 2, 60)


def poll_with_a_window(stage: Stage) -> list[Webhook]:
    """Run the poller once, with a window."""
    stage.poll(window=15)
    return []


def nothing(_stage: Stage) -> None:
    """Prepare nothing."""


def webhook(stage: Stage) -> list[Webhook]:
    """Upload a video and deliver its webhook."""
    stage.simulator.upload(generation_seconds=40)
    return deliver(stage)


def redelivery_during_a_create(stage: Stage) -> list[Webhook]:
    """Deliver the same webhook again while the first create is under way."""
    stage.simulator.upload(generation_seconds=40)
    (sent,) = stage.simulator.due_webhooks()
    stage.pause = once(lambda call: call.startswith("Cloudflare POST"), "receive", stage, sent)
    again = [] if stage.receive(sent) == 200 else [sent]
    stage.pause = None
    return again


def once(
    when: Callable[[str], bool], whose: str, stage: Stage, sent: Webhook
) -> Callable[[Sandbox, str], None]:
    """Send a webhook again as soon as a sandbox is about to make such a call."""
    is_over = False

    def pause(sandbox: Sandbox, call: str) -> None:
        nonlocal is_over
        if sandbox.name == whose and when(call) and not is_over:
            is_over = True
            stage.receive(sent, "receive again")

    return pause


def videos_in_every_step(stage: Stage) -> None:
    """Upload three videos: two downloads to be listed, two to be created, one of each."""
    stage.simulator.upload(generation_seconds={"default": 20, "audio": 100})
    deliver(stage)
    stage.simulator.upload(webhook_delays=())
    stage.simulator.upload(webhook_delays=(), private=True)
    stage.clock.sleep(30)
    stage.reconcile()
    stage.clock.sleep(30)


def videos_to_create(stage: Stage) -> None:
    """Upload three videos without a webhook, and reconcile."""
    for _ in range(3):
        stage.simulator.upload(webhook_delays=())
    stage.reconcile()


def poll_into_a_429(stage: Stage) -> list[Webhook]:
    """Poll while the third request, and those sent with it, are answered 429."""
    stage.simulator.faults.script(Fault.THROTTLED, skip=2, times=4)
    return poll(stage)


def webhook_into_a_429(stage: Stage) -> list[Webhook]:
    """Deliver a webhook whose second create is answered by a 429 page without a time."""
    stage.simulator.faults.script(Fault.THROTTLED_HTML, calls=("create download",), skip=1)
    return webhook(stage)


def download_that_fails(stage: Stage) -> None:
    """Let Cloudflare fail to make a download."""
    stage.simulator.upload(failing_creates={"default": 1}, generation_seconds=20)
    deliver(stage)
    stage.clock.sleep(40)


def ready_downloads(stage: Stage) -> None:
    """Make both downloads of a video ready."""
    stage.simulator.upload()
    deliver(stage)
    stage.clock.sleep(60)
    stage.poll()


def delete(stage: Stage) -> list[Webhook]:
    """Delete both by command, until it is answered; then repeat the webhook."""
    (uid,) = stage.simulator.videos
    stage.command("delete", uid)
    poll(stage)
    stage.simulator.repeat_webhook(uid)
    return deliver(stage)


def delete_and_request(stage: Stage) -> list[Webhook]:
    """Delete both by command and request them again before that is done."""
    (uid,) = stage.simulator.videos
    stage.command("delete", uid)
    stage.poll()
    stage.command("request", uid)
    return poll(stage)


def retention_is_over(stage: Stage) -> list[Webhook]:
    """Poll after the end of retention."""
    stage.clock.sleep(86_400)
    return poll(stage)


def download_that_vanished(stage: Stage) -> None:
    """Delete the MP4 at Cloudflare and let a week pass."""
    ready_downloads(stage)
    (uid,) = stage.simulator.videos
    stage.simulator.drop_download(uid, "default")
    stage.clock.sleep(7 * 86_400)


def library_without_webhooks(stage: Stage) -> None:
    """Upload three videos without a webhook, one of them with one row."""
    for _ in range(3):
        stage.simulator.upload(webhook_delays=())
    uid = next(iter(stage.simulator.videos))
    stage.manage(action="request", video_uid=uid, download_types=["audio"])


def reconcile(stage: Stage) -> list[Webhook]:
    """Reconcile with a backfill, and an hour later without."""
    stage.reconcile(since=stage.clock() - 86_400)
    stage.clock.sleep(130)
    stage.reconcile()
    return []


def backfill_begun(stage: Stage) -> None:
    """Upload three videos too old for the hourly run, and begin a backfill without time."""
    for _ in range(3):
        stage.simulator.upload(webhook_delays=())
    stage.clock.sleep(3 * 86_400)
    stage.reconcile(since=stage.clock() - 4 * 86_400, seconds=1.0)


def backfill(stage: Stage) -> list[Webhook]:
    """Continue the backfill with the next hourly run."""
    stage.clock.sleep(3600)
    stage.reconcile()
    return []


def signing_secret_rotates(stage: Stage) -> list[Webhook]:
    """Rotate the signing secret and register again, with a webhook before and after."""
    stage.simulator.upload()
    on_its_way = stage.simulator.due_webhooks()
    stage.rotate_signing_secret()
    stage.simulator.upload()
    stage.register()
    return receive_all(stage, on_its_way) + deliver(stage)


def become_guest(stage: Stage) -> None:
    """Receive a request that the owner of the webhook passes on, with another on its way."""
    stage.be_guest()
    webhook(stage)
    stage.simulator.upload()


def the_secret_of_the_owner_rotates(stage: Stage) -> list[Webhook]:
    """Let the owner pass requests on: one right after the change, one from before, and one later.

    The schedule compares the secret in between.
    """
    on_its_way = stage.simulator.due_webhooks()
    stage.rotate_signing_secret()
    stage.simulator.upload()
    again = deliver(stage) + receive_all(stage, on_its_way)
    stage.register(Registration.REFRESH)
    stage.simulator.upload()
    return again + deliver(stage)


def videos_that_say_what_they_want(stage: Stage) -> None:
    """Prepare a stack without webhooks, and videos that want other downloads than all."""
    stage.reconcile()
    for said in ("none", "default,audio"):
        stage.simulator.upload(webhook_delays=(), downloads=said)
    stage.simulator.upload(webhook_delays=(), encode_seconds=30)


def video_that_encodes_beyond_the_look_back(stage: Stage) -> None:
    """Upload a video, remember that it is encoding, and let it become ready."""
    stage.simulator.upload(webhook_delays=(), encode_seconds=60 * 3600.0)
    stage.reconcile()
    stage.clock.sleep(61 * 3600.0)


def api_token_rotates(stage: Stage) -> list[Webhook]:
    """Rotate the API token while functions are warm."""
    stage.simulator.upload()
    stage.rotate_api_token()
    again = deliver(stage)
    stage.clock.sleep(60)
    poll(stage)
    return again


def deliver(stage: Stage) -> list[Webhook]:
    """Send the webhooks that are due; return those without a 200."""
    return receive_all(stage, stage.simulator.due_webhooks())


def receive_all(stage: Stage, webhooks: list[Webhook]) -> list[Webhook]:
    """Receive each webhook; return those without a 200."""
    return [sent for sent in webhooks if stage.receive(sent) != 200]


SCENARIOS = {
    "webhook": Scenario(nothing, webhook),
    "webhook that is passed on": Scenario(nothing, webhook, stage={"video_events": True}),
    "redelivery during a create": Scenario(nothing, redelivery_during_a_create),
    "poll with both types": Scenario(videos_in_every_step, poll),
    "poll with a window": Scenario(videos_in_every_step, poll_with_a_window, only=DEADLY),
    "poll with a clock five minutes slow": Scenario(
        videos_in_every_step, poll, stage={"skew": -300.0}, only=DEADLY
    ),
    "poll with a clock five minutes fast": Scenario(
        videos_in_every_step, poll, stage={"skew": 300.0}, only=DEADLY
    ),
    "429 in the middle of a poll": Scenario(videos_to_create, poll_into_a_429),
    "429 in the middle of a webhook": Scenario(nothing, webhook_into_a_429),
    # The failed download is deleted and created again after a pause.
    "retry after a download error": Scenario(download_that_fails, repeated(Stage.poll, 4, 45)),
    "delete": Scenario(ready_downloads, delete, deletes=True),
    "delete and request": Scenario(ready_downloads, delete_and_request),
    "end of retention": Scenario(
        ready_downloads, retention_is_over, deletes=True, stage={"retention": 86_400.0}
    ),
    # An MP4 is missing if two lists lack it that are a minute apart.
    "drift": Scenario(download_that_vanished, repeated(Stage.poll, 4, 61)),
    "reconcile page": Scenario(library_without_webhooks, reconcile),
    "backfill page": Scenario(backfill_begun, backfill),
    "reconcile every minute": Scenario(
        videos_that_say_what_they_want, repeated(Stage.reconcile, 2, 60), stage={"period": 60.0}
    ),
    "look-up of a slow video": Scenario(
        video_that_encodes_beyond_the_look_back, repeated(Stage.reconcile, 2, 3600)
    ),
    "guest": Scenario(become_guest, the_secret_of_the_owner_rotates),
    "signing secret rotates": Scenario(ready_downloads, signing_secret_rotates),
    "API token rotates": Scenario(ready_downloads, api_token_rotates),
}
