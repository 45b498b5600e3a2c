"""Play the demo, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import urllib3

from tests.demo.scenario import AUDIO, DEFAULT, Item, Key, Library, complaints
from tests.demo.screen import Screen
from tests.demo.stage import Poller, Subscriber, poller, rows_of
from tests.simulator import SimulatorServer, signature
from tests.support.deployment import Stack
from tests.support.template import template

Rows = Mapping[Key, Item]

REQUEST_LIMIT: int = template()["Parameters"]["CloudflareRequestLimit"]["Default"]
# Seconds, from the first line on the screen.
MUST_END_AFTER = 180.0
POLL_EVERY = 0.25
EVENTS_ARRIVE_WITHIN = 10.0


class TooSlow(RuntimeError):
    """An awaited change did not happen in time; the text names it."""


@dataclass
class Ending:
    """Tells how the demo ended.

    Attributes:
        forged_answer: the status of the answer to a webhook with a forged signature.
        library: the uploaded videos.
        rows: the downloads table.
        event: one `Download Ready`, as the subscriber received it.
        found_after: the seconds from when the video whose webhook got lost was ready until
            ReconcileLibrary had found it.
        link_answers: the status that the link to the private video answers.
        complaints: a line for each result that is wrong.
    """

    forged_answer: int
    library: Library = field(default_factory=lambda: Library(()))
    rows: Rows = field(default_factory=dict)
    event: dict[str, Any] = field(default_factory=dict)
    found_after: float = 0.0
    link_answers: int = 0
    complaints: list[str] = field(default_factory=list)


def play(screen: Screen, server: SimulatorServer, stack: Stack) -> Ending:
    """Play the whole demo on a stack that was just deployed.

    Args:
        screen: where to show it.
        server: the simulated Cloudflare.
        stack: the deployed stack.

    Raises:
        TooSlow: a row has not ended in time.
        AssertionError: a function failed.
    """
    cloudflare = server.simulator
    subscriber = Subscriber.to(stack, "ready-downloads", "Download Ready")
    stack.invoke("RegisterWebhookFunctionName", {})
    screen.say("RegisterWebhook tells Cloudflare where to send webhooks, and keeps their secret")
    ending = Ending(forged_answer=_send_forged(stack))
    screen.say(f"A webhook with a forged signature is refused: {ending.forged_answer}")
    ending.library = Library.uploaded_to(cloudflare)
    screen.say(
        f"{len(ending.library.uids)} videos are uploaded. For each that is ready, Cloudflare sends"
        " a signed webhook; ReceiveWebhook writes a row and asks for the download"
    )
    with screen.table(ending.library.downloads(), cloudflare) as draw, poller(stack) as polling:
        scene = Scene(screen, server, stack, ending, draw, polling)
        scene.webhooks_arrive()
        scene.audio_is_wanted()
        scene.lost_webhook_is_found()
        scene.downloads_become_ready()
        scene.draft_is_deleted()
    wanted = {"action": "link", "video_uid": ending.library.uid("salaries.mp4")}
    link = stack.invoke("ManageDownloadsFunctionName", wanted)
    ending.link_answers = cloudflare.fetch(link["url"])
    ending.complaints = [
        *complaints(ending.library, cloudflare, ending.rows, REQUEST_LIMIT),
        *_events_are_received(ending, subscriber),
    ]
    if ending.forged_answer != 403:
        ending.complaints.append(f"a forged webhook was answered {ending.forged_answer}")
    if ending.link_answers != 200:
        ending.complaints.append(f"the link to the private video answers {ending.link_answers}")
    return ending


@dataclass
class Scene:
    """Plays the steps, and holds the state that they share."""

    screen: Screen
    server: SimulatorServer
    stack: Stack
    ending: Ending
    draw: Callable[[Rows], None]
    polling: Poller

    @property
    def library(self) -> Library:
        """Return what was uploaded."""
        return self.ending.library

    def webhooks_arrive(self) -> None:
        """Wait until each webhook is answered, and its row exists."""
        told = {uid for uid, clip in self.library.clips() if clip.upload.webhook_delays != ()}
        coming, answers = self.library.webhooks, self.server.webhook_answers
        self.watch(
            "the webhooks",
            lambda rows: len(answers) == coming and told == {key.video_uid for key in rows},
        )

    def audio_is_wanted(self) -> None:
        """Request some audio by hand; the stack makes the MP4 of every video."""
        wanted = [(uid, clip) for uid, clip in self.library.clips() if clip.audio]
        for uid, _ in wanted:
            self.manage("request", uid, download_types=[AUDIO])
        names = ", ".join(clip.name for _, clip in wanted)
        self.screen.say(f"ManageDownloads is asked for the audio of {names}, too")

    def lost_webhook_is_found(self) -> None:
        """Invoke ReconcileLibrary, which finds the video whose webhook got lost."""
        uid = self.library.uid("webinar.mp4")
        answer = self.stack.invoke("ReconcileLibraryFunctionName", {})
        self.ending.found_after = time.time() - self.server.simulator.videos[uid].encoded_at
        found = answer["videos_requested"]
        assert found == 1, f"ReconcileLibrary found {found} videos, one webhook was lost: {answer}"
        self.screen.say(
            f"ReconcileLibrary compares Cloudflare's {answer['videos_seen']} ready videos with the"
            " table, and finds webinar.mp4, whose webhook got lost"
        )

    def downloads_become_ready(self) -> None:
        """Wait until every row is ready, or has failed."""
        self.screen.say(
            "PollDownloads follows every download until its URL works. The schedule starts it every"
            " minute; here it is also started by hand, to save the wait"
        )
        self.watch("the downloads", self.all_settled, self.polling.keep_running)

    def draft_is_deleted(self) -> None:
        """Delete one download by hand."""
        self.screen.say("ManageDownloads is told to delete draft.mp4")
        key = Key(self.library.uid("draft.mp4"), DEFAULT)
        self.manage("delete", key.video_uid)
        self.watch(
            "the delete",
            lambda rows: rows[key]["status"] == "deleted",
            self.polling.keep_running,
        )

    def all_settled(self, rows: Rows) -> bool:
        """Return True if nothing is under way any more."""
        settled = ("ready", "error")
        return all(
            key in rows and rows[key]["status"] in settled for key in self.library.downloads()
        )

    def manage(self, action: str, video_uid: str, **more: object) -> None:
        """Invoke ManageDownloads."""
        payload = {"action": action, "video_uid": video_uid, **more}
        self.stack.invoke("ManageDownloadsFunctionName", payload)

    def watch(
        self,
        what: str,
        happened: Callable[[Rows], bool],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Show the table until ``happened`` returns True.

        Raises:
            TooSlow: it did not in time.
        """
        while True:
            meanwhile()
            self.ending.rows = rows_of(self.stack)
            self.draw(self.ending.rows)
            if happened(self.ending.rows):
                return
            if self.screen.seconds > MUST_END_AFTER:
                raise TooSlow(f"{what} did not come to an end in {MUST_END_AFTER:.0f} s")
            time.sleep(POLL_EVERY)


def _send_forged(stack: Stack) -> int:
    """Send a webhook signed with a foreign secret; return the status of the answer."""
    body = b"{}"
    return urllib3.request(
        "POST",
        stack.webhook_url,
        body=body,
        headers={"Webhook-Signature": signature(body, "a secret of their own", int(time.time()))},
        timeout=60,
        retries=False,
    ).status


def _events_are_received(ending: Ending, subscriber: Subscriber) -> list[str]:
    """Wait for an event of each download that was ever ready; return what is wrong."""
    ready = {key for key, clip in ending.library.downloads().items() if clip.ends_as != "error"}
    until = time.monotonic() + EVENTS_ARRIVE_WITHIN
    while missing := ready - {subscriber.key(event) for event in subscriber.received}:
        subscriber.receive()
        if time.monotonic() > until:
            return [f"no event came of {key}" for key in missing]
        time.sleep(POLL_EVERY)
    shown = Key(ending.library.uid("interview.mp4"), DEFAULT)
    ending.event = next(event for event in subscriber.received if subscriber.key(event) == shown)
    return []
