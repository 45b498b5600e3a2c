"""Proves a deployed stack with a clip, asks Cloudflare what its documents leave open, cleans up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from tests.smoke.cloudflare import Answer, Cloudflare, NoAnswer
from tests.smoke.failure import Failed
from tests.smoke.report import Note, Report
from tests.smoke.stack import Stack

Found = TypeVar("Found")

CLIP: Final = Path(__file__).with_name("clip.mp4")
NO_VIDEO: Final = "0" * 32
# Seconds: all of it, and each thing that is waited for.
TOTAL: Final = 900.0
ROW_WITHIN: Final = 180.0
READY_WITHIN: Final = 300.0
URL_WORKS_WITHIN: Final = 60.0
DELETED_WITHIN: Final = 180.0
ENCODED_WITHIN: Final = 240.0
# The stack's table is read more often than Cloudflare.
READ_EVERY: Final = 1.0
ASK_EVERY: Final = 10.0
TELL_EVERY: Final = 10.0
CLEAN_UP_TRIES: Final = 3
CLEAN_UP_PAUSE: Final = 2.0


@dataclass(slots=True)
class Clip:
    """A clip that this run has uploaded, or was about to.

    Attributes:
        name: a unique name, by which the clip is found if its uid never arrived.
        uid: Cloudflare's uid, once it is known.
        upload_url: the address for the file.
        may_have_rows: True if the stack may know it.
    """

    name: str
    uid: str | None = None
    upload_url: str = ""
    may_have_rows: bool = False


@dataclass(slots=True)
class Smoke:
    """One run. Videos other than its own clips are never touched.

    Attributes:
        cloudflare: the account of the stack.
        stack: the stack.
        say: shows a line.
        monotonic: seconds.
        sleep: waits that many seconds.
        report: what was measured and noted.
        clips: all that has to be removed in the end.
    """

    cloudflare: Cloudflare
    stack: Stack
    say: Callable[[str], None]
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    report: Report = field(default_factory=Report)
    clips: list[Clip] = field(default_factory=list)
    ends_at: float = 0.0

    def run(self) -> None:
        """Prove the stack, then ask the questions.

        Raises:
            Failed: the stack is not proven.
        """
        self.ends_at = self.monotonic() + TOTAL
        self.say(
            "This takes two to ten minutes, and sends 20 to 60 requests to Cloudflare that the"
        )
        self.say("stack's CloudflareRequestLimit does not count.")
        self.check()
        self.prove()
        try:
            self.ask_questions()
        except Failed as reason:
            self.say(f"The questions to Cloudflare ended early: {reason}.")

    def secrets(self) -> Collection[str]:
        """Return the texts of this run that a report must not show."""
        return [text for clip in self.clips for text in (clip.name, clip.uid) if text]

    # --- the proof ----------------------------------------------------------------------------

    def check(self) -> None:
        """Show what `{"action": "check"}` finds wrong: it explains most failures that follow."""
        with self.step("Asking ManageDownloads whether all is as it should be"):
            findings = self.stack.manage(action="check")["findings"]
        for finding in findings:
            if not finding["ok"]:
                self.say(f"  {finding['check']}: {finding['detail']} {finding['fix']}")

    def prove(self) -> None:
        """Follow a clip from its upload to its URL, and to the deletion of its download."""
        clip = self.reserve("default")
        with self.step("Uploading a clip of two seconds"):
            self.upload(clip)
        with self.step("Waiting for its row in the table"):
            self.wait_for_row(clip)
        with self.step("Waiting for its URL"):
            row = self.wait(
                "the URL", lambda: at_its_end(self.row(clip), "ready"), READY_WITHIN, READ_EVERY
            )
        with self.step("Fetching the head of the URL"):
            self.wait("the file", lambda: self.is_mp4(row["url"]), URL_WORKS_WITHIN, ASK_EVERY)
        with self.step("Deleting the download"):
            self.stack.manage(action="delete", video_uid=clip.uid)
            self.wait(
                "the row to be deleted",
                lambda: at_its_end(self.row(clip), "deleted"),
                DELETED_WITHIN,
                READ_EVERY,
            )
        with self.step("Deleting the video"):
            self.delete_video(clip)

    def reserve(self, downloads: str) -> Clip:
        """Have Cloudflare expect a clip, whose ``meta`` says which downloads it gets."""
        clip = Clip(f"stream-downloads-smoke-{uuid4().hex}")
        self.clips.append(clip)  # first: the answer may get lost
        meta = {"name": clip.name, "downloads": downloads}
        answer = self.cloudflare.call(
            "POST", "/direct_upload", {"maxDurationSeconds": 60, "meta": meta}
        )
        match answer.result:
            case {"uid": str(uid), "uploadURL": str(url)} if answer.ok:
                clip.uid, clip.upload_url = uid, url
            case _:
                raise Failed(f"Cloudflare takes no upload: {worded(answer)}")
        return clip

    def upload(self, clip: Clip) -> None:
        """Upload a clip that was reserved."""
        clip.may_have_rows = True
        answer = self.cloudflare.upload(clip.upload_url, CLIP.read_bytes())
        if not answer.ok:
            raise Failed(f"Cloudflare does not take the clip: {worded(answer)}")

    def wait_for_row(self, clip: Clip) -> None:
        """Wait until the stack knows the clip; reconcile if no webhook comes."""
        try:
            self.wait("the row", lambda: self.row(clip), ROW_WITHIN, READ_EVERY)
        except Failed:
            state = self.state(clip)
            if state != "ready":
                raise Failed(f"Cloudflare has not encoded the clip: it is {state}") from None
            self.say("  No webhook has come although the clip is ready: reconciling.")
            self.stack.reconcile()
            self.wait("the row", lambda: self.row(clip), ROW_WITHIN, READ_EVERY)

    def row(self, clip: Clip) -> Mapping[str, Any] | None:
        """Return the clip's MP4 in the table."""
        rows = self.stack.rows(clip.uid or "")
        return next((row for row in rows if row["download_type"] == "default"), None)

    def is_mp4(self, url: str) -> bool | None:
        """Return true if a URL gives an MP4, None if it does not yet."""
        status, head = self.cloudflare.head_of(url)
        if status in (200, 206) and b"ftyp" in head:
            return True
        if status in (200, 206):
            raise Failed("The URL gives something that is no MP4")
        self.say(f"  The URL answers {status}.")
        return None

    def state(self, clip: Clip) -> str:
        """Return the state of Cloudflare's encoding of a clip."""
        answer = self.cloudflare.call("GET", f"/{clip.uid}")
        match answer.result:
            case {"status": {"state": str(state)}}:
                return state
        return worded(answer)

    def delete_video(self, clip: Clip) -> None:
        """Delete a clip at Cloudflare."""
        answer = self.cloudflare.call("DELETE", f"/{clip.uid}")
        if not answer.ok and answer.status != 404:
            raise Failed(f"Cloudflare does not delete the clip: {worded(answer)}")

    # --- the questions ------------------------------------------------------------------------

    def ask_questions(self) -> None:
        """Note what Cloudflare answers where its documents are silent, with a second clip."""
        with self.step("Asking Cloudflare what its documents leave open"):
            clip = self.reserve("none")
            mp4, downloads = f"/{clip.uid}/downloads/default", f"/{clip.uid}/downloads"
            self.note("List downloads before the upload", "GET", downloads)
            self.note("Create a download before the upload", "POST", mp4)
            self.upload(clip)
            self.note("Create a download too early, right after the upload", "POST", mp4)
            self.wait("the encoding", lambda: self.is_encoded(clip), ENCODED_WITHIN, ASK_EVERY)
            self.note("List downloads before any create", "GET", downloads)
            self.note("Create a download", "POST", mp4)
            self.note("Create it twice", "POST", mp4)
            self.note("List downloads after that", "GET", downloads)
            self.note("Create the audio of a silent video", "POST", f"{downloads}/audio")
            self.sleep(ASK_EVERY)
            self.note("List downloads ten seconds later", "GET", downloads)
            self.note("Delete a download", "DELETE", mp4)
            self.note("Delete it twice", "DELETE", mp4)
            self.note("Delete the video", "DELETE", f"/{clip.uid}")
            self.note("List downloads of a deleted video", "GET", downloads)
            self.note("Create a download of no video", "POST", f"/{NO_VIDEO}/downloads/default")

    def note(self, question: str, method: str, path: str) -> None:
        """Ask one question; an answer that does not come is noted as well."""
        try:
            answer: Answer | str = self.cloudflare.call(method, path)
        except NoAnswer as reason:
            answer = str(reason)
        parts = ["(uid)" if len(part) == 32 else part for part in path.split("/")]
        self.report.notes.append(Note(question, f"{method} …/stream{'/'.join(parts)}", answer))

    def is_encoded(self, clip: Clip) -> bool | None:
        """Return true once Cloudflare has encoded a clip."""
        state = self.state(clip)
        if state == "error":
            raise Failed("Cloudflare could not encode the clip")
        return True if state == "ready" else None

    # --- the end ------------------------------------------------------------------------------

    def clean_up(self) -> list[str]:
        """Remove all clips; return a sentence for each thing that is left over."""
        left = []
        for clip in self.clips:
            if problem := self.attempt(partial(self.remove_video, clip)):
                left.append(f"Delete the video {clip.name} in Cloudflare's dashboard: {problem}.")
            if problem := self.attempt(partial(self.remove_rows, clip)):
                about = f'{{"action": "delete", "video_uid": "{clip.uid}"}}'
                left.append(f"Invoke ManageDownloads with {about}: {problem}.")
        return left

    def attempt(self, action: Callable[[], None]) -> str | None:
        """Try something a few times; return the last problem, None once it is done."""
        problem = None
        for attempt in range(CLEAN_UP_TRIES):
            if attempt:
                self.sleep(CLEAN_UP_PAUSE)
            try:
                action()
            except Failed as failure:
                problem = str(failure)
            else:
                return None
        return problem

    def remove_video(self, clip: Clip) -> None:
        """Delete a clip at Cloudflare, also if its uid has never arrived."""
        if clip.uid:
            self.delete_video(clip)
            return
        # Cloudflare may list the clip of a recent request a moment later.
        for _ in range(CLEAN_UP_TRIES):
            for uid in self.cloudflare.named(clip.name):
                clip.uid = uid
                self.delete_video(clip)
            if clip.uid:
                return
            self.sleep(CLEAN_UP_PAUSE)

    def remove_rows(self, clip: Clip) -> None:
        """Have the stack delete the rows of a clip; a webhook may be on its way."""
        while clip.uid and clip.may_have_rows:
            rows = self.stack.rows(clip.uid)
            if any(row["status"] not in ("deleting", "deleted") for row in rows):
                self.stack.manage(action="delete", video_uid=clip.uid)
            if rows:
                break
            clip.may_have_rows = False
            self.sleep(CLEAN_UP_PAUSE)

    # --- shared -------------------------------------------------------------------------------

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a step and how long it took."""
        self.say(f"{title} ...")
        began = self.monotonic()
        yield
        seconds = self.monotonic() - began
        self.report.steps.append((title, seconds))
        self.say(f"  done in {seconds:.1f} s")

    def wait(
        self, what: str, look: Callable[[], Found | None], within: float, every: float
    ) -> Found:
        """Poll until there is a result, and print sometimes that this goes on.

        Raises:
            Failed: there was no result within that time, or within the time of the whole run.
        """
        began = told = self.monotonic()
        ends_at = min(began + within, self.ends_at)
        while (found := look()) is None:
            now = self.monotonic()
            if now >= ends_at:
                raise Failed(f"Waited {now - began:.0f} s for {what}, in vain")
            if now - told >= TELL_EVERY:
                told = now
                self.say(f"  still waiting for {what}: {now - began:.0f} of {within:.0f} s")
            self.sleep(every)
        return found


def at_its_end(row: Mapping[str, Any] | None, status: str) -> Mapping[str, Any] | None:
    """Return a row with that status, None if it may still reach it.

    Raises:
        Failed: it has ended in ``error``.
    """
    if row and row["status"] == "error":
        raise Failed(f"The download failed: {row.get('error_code')}: {row.get('error_message')}")
    return row if row and row["status"] == status else None


def worded(answer: Answer) -> str:
    """Return Cloudflare's words about a request that it refuses."""
    errors = answer.body.get("errors") if isinstance(answer.body, dict) else None
    said = "; ".join(
        f"{error.get('code')} {error.get('message')}"
        for error in errors or []
        if isinstance(error, dict)
    )
    return f"it answered {answer.status}" + (f" ({said})" if said else "")
