"""``make smoke`` against the simulated Cloudflare, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stream_downloads.adapters.download_item import consumers_view
from stream_downloads.domain import commands
from stream_downloads.domain.commands import BadRequest
from stream_downloads.domain.download import Status
from stream_downloads.services.check import Installation, check
from stream_downloads.services.manage import manage
from tests.simulator import BASE_URL, CUSTOMER_HOST, Fault, InProcessPool
from tests.smoke import __main__ as program
from tests.smoke.cloudflare import Answer, Cloudflare
from tests.smoke.failure import Failed
from tests.smoke.report import Note, Report
from tests.smoke.run import CLIP, Smoke
from tests.support.world import WEBHOOK_URL, World

MOST_REQUESTS = 60


class Act:
    """Counts what a run does, and interrupts it before or after one thing."""

    def __init__(self) -> None:
        self.count = 0
        self.interrupt_at: tuple[int, bool] | None = None  # True: after it was done
        self.over = False

    def __call__(self, action: Callable[[], Any]) -> Any:
        here, self.count = self.count, self.count + 1
        if not self.over and self.interrupt_at == (here, False):
            raise KeyboardInterrupt
        result = action()
        if not self.over and self.interrupt_at == (here, True):
            raise KeyboardInterrupt
        return result

    def end(self) -> None:
        """Interrupt nothing any more."""
        self.over = True


class Pool(InProcessPool):
    """The way to the simulator, with a record of what was sent."""

    act: Act
    sent: list[tuple[str, Mapping[str, str]]]

    def request(self, method: str, url: str, **options: Any) -> Any:  # type: ignore[override]
        self.sent.append((url, options["headers"]))
        return self.act(lambda: super(Pool, self).request(method, url, **options))


class WorldStack:
    """The stack of a `World`, as the smoke test reaches it."""

    def __init__(self, world: World, act: Act) -> None:
        self.world, self.act = world, act

    def rows(self, uid: str) -> list[Mapping[str, Any]]:
        rows = self.world.downloads.of_video(uid)
        return self.act(lambda: [consumers_view(row) for row in rows])  # type: ignore[no-any-return]

    def manage(self, **payload: Any) -> Any:
        return self.act(lambda: self._manage(payload))

    def reconcile(self) -> None:
        self.act(self.world.reconcile)

    def _manage(self, payload: Mapping[str, Any]) -> Any:
        service = self.world.service
        command = commands.command(payload)
        try:
            if isinstance(command, commands.CheckCommand):
                installation = Installation(WEBHOOK_URL, lambda: b"", 60.0)
                return check(service, installation, lambda: 30.0)
            return manage(service, command, lambda: 30.0)
        except BadRequest as error:
            raise Failed(str(error)) from None


class Stage:
    """A world with the video of another user, and a smoke test that is about to begin."""

    def __init__(self, tmp_path: Path) -> None:
        self.world = World(arriving=True)
        self.world.credentials.in_memory = self.world.credentials.stored = "secret-token"
        self.world.simulator.settings.api_token = "secret-token"
        self.other = self.world.simulator.upload(webhook_delays=())
        self.act, self.lines = Act(), list[str]()
        self.pool = Pool(self.world.simulator, sleep=self.world.clock.sleep)
        self.pool.act, self.pool.sent = self.act, []
        account_id = self.world.simulator.settings.account_id
        authorization = {"Authorization": "Bearer secret-token"}
        self.smoke = Smoke(
            Cloudflare(BASE_URL, account_id, authorization, self.pool),
            WorldStack(self.world, self.act),
            self.lines.append,
            self.world.clock,
            self.sleep,
        )
        self.path = tmp_path / "report.md"
        self.secrets = {account_id, "secret-token"}

    def sleep(self, seconds: float) -> None:
        """Let time pass; the schedule of the poller goes on."""
        self.act(lambda: self.world.clock.sleep(seconds))
        self.world.poll()

    def run(self) -> int:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(program, "say", self.lines.append)
            patched.setattr(program, "ignore_interrupts", self.act.end)
            return program.prove(self.smoke, self.path, self.secrets)

    def leaves_nothing(self) -> None:
        """Fail if a clip is left over, or another video was touched."""
        assert set(self.world.simulator.videos) == {self.other}
        assert self.world.simulator.videos[self.other].downloads == {}
        assert self.other not in {call.video_uid for call in self.world.simulator.calls}
        for _ in range(5):
            self.world.clock.sleep(60)
            self.world.poll()
        assert {row.status for row in self.world.downloads.rows.values()} <= {Status.DELETED}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_stack_that_works_is_proven_and_nothing_is_left_over(stage: Stage) -> None:
    assert stage.run() == 0, stage.lines
    stage.leaves_nothing()
    assert stage.lines[-2].startswith("The stack works; ")
    assert [step for step, _ in stage.smoke.report.steps] == [
        "Asking ManageDownloads whether all is as it should be",
        "Uploading a clip of two seconds",
        "Waiting for its row in the table",
        "Waiting for its URL",
        "Fetching the head of the URL",
        "Deleting the download",
        "Deleting the video",
        "Asking Cloudflare what its documents leave open",
    ]
    assert stage.smoke.cloudflare.sent <= MOST_REQUESTS


@pytest.mark.no_cover
def test_wherever_it_is_interrupted_nothing_is_left_over(tmp_path: Path) -> None:
    whole = Stage(tmp_path)
    whole.run()
    for at in range(whole.act.count):
        for after in (False, True):
            stage = Stage(tmp_path)
            stage.act.interrupt_at = (at, after)
            if stage.run() != program.INTERRUPTED:
                assert at > 30, stage.lines  # the cleaning up cannot be interrupted
            stage.leaves_nothing()


@pytest.mark.parametrize("call", ["reserve upload", "upload"])
@pytest.mark.parametrize(
    "fault", [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.RESET_BEFORE, Fault.SERVER_ERROR_AFTER]
)
def test_an_upload_whose_answer_is_lost_is_found_and_deleted(
    stage: Stage, call: str, fault: Fault
) -> None:
    stage.world.simulator.faults.script(fault, calls=[call])
    assert stage.run() == 1
    stage.leaves_nothing()
    assert stage.lines[-1].startswith("Failed: ")


def test_a_webhook_that_does_not_come_is_said_and_replaced_by_a_reconciliation(
    stage: Stage,
) -> None:
    stage.world.simulator.habit = lambda: ()
    stage.world.simulator.drop_video(stage.other)
    assert stage.run() == 0
    assert "  No webhook has come although the clip is ready: reconciling." in stage.lines
    assert stage.world.simulator.videos == {}


def test_a_clip_that_is_never_encoded_ends_the_run_in_time(stage: Stage) -> None:
    stage.world.simulator.sent_in = stage.world.simulator.sent_in.__class__(encode_seconds=1e6)
    began = stage.world.clock()
    assert stage.run() == 1
    assert stage.world.clock() - began < 300
    assert stage.lines[-1] == "Failed: Cloudflare has not encoded the clip: it is inprogress."
    assert any("still waiting for the row: 10 of 180 s" in line for line in stage.lines)
    stage.leaves_nothing()


def test_the_finding_of_a_check_is_shown_before_what_fails_because_of_it(stage: Stage) -> None:
    stage.world.simulator.outbox.subscription = None
    stage.run()
    assert any("subscription: Cloudflare sends the account's" in line for line in stage.lines)


def test_a_clip_that_cannot_be_deleted_is_named(stage: Stage) -> None:
    stage.world.simulator.faults.script(Fault.SERVER_ERROR, calls=["delete video"], times=9)
    assert stage.run() == 1
    assert any(
        stage.smoke.clips[0].name in line and "dashboard: Cloudflare does not delete" in line
        for line in stage.lines
    )


def test_the_token_goes_to_the_api_alone(stage: Stage) -> None:
    stage.run()
    uploads = [headers for url, headers in stage.pool.sent if "/upload/" in url]
    files = [headers for _, headers in stage.pool.sent if headers.get("Host") == CUSTOMER_HOST]
    assert len(uploads) == 2
    assert files
    for headers in (*uploads, *files):
        assert "Authorization" not in headers


def test_the_report_has_the_answers_and_nothing_that_belongs_to_the_user(stage: Stage) -> None:
    stage.run()
    text = stage.path.read_text(encoding="utf-8")
    for question in (
        "## Create a download before the upload",
        "## List downloads before any create",
        "## Create it twice",
        "## Create the audio of a silent video",
    ):
        assert question in text
    assert "`POST …/stream/(uid)/downloads/audio` → 400" in text
    assert "The video has no audio track" in text
    assert '- `ratelimit: "default";r=' in text
    for clip in stage.smoke.clips:
        assert clip.uid
        assert clip.uid not in text
        assert clip.name not in text
    for secret in (*stage.secrets, "cloudflarestream", "simulator"):
        assert secret not in text


MINE = {
    "errors": [
        {
            "code": 10003,
            "message": (
                "No video 0a1b2c3d4e5f60718293a4b5c6d7e8f9 for me@mine.example at"
                " https://mine.example/x from 203.0.113.9 (customer-abc.cloudflarestream.com),"
                " account my-account, key c2VjcmV0LXRva2VuLW9mLW1pbmU1"
            ),
        }
    ],
    "messages": None,
    "result": {
        "uid": "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "creator": "Mine",
        "created": "2026-01-01T00:00:00.123Z",
        "url": "https://customer-abc.cloudflarestream.com/x",
        "meta": {"my-account": "Mine"},
        "status": {"state": "ready", "pctComplete": "39.000000"},
        "percentComplete": 39.5,
        "tags": ["Mine"] * 9,
    },
}


def test_of_an_answer_only_the_shape_and_cloudflares_words_are_kept() -> None:
    answer = Answer(404, {"ratelimit": '"default";r=50;t=30'}, MINE)
    text = Report(notes=[Note("Q", "GET …", answer)]).text({"my-account"})
    for mine in ("0a1b", "mine", "Mine", "203.0", "abc", "my-account", "c2Vj", "2026"):
        assert mine not in text, mine
    kept = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert kept["errors"][0]["code"] == 10003
    assert kept["errors"][0]["message"].startswith(
        "No video (id) for (e-mail) at (url) from (host)"
    )
    assert kept["result"]["status"] == {"state": "ready", "pctComplete": "39.000000"}
    assert kept["result"]["url"] == "(url)"
    assert kept["result"]["created"] == "(time)"
    assert kept["result"]["tags"] == ["(text)"] * 3
    assert '"default";r=50;t=30' in text


def test_a_report_with_a_secret_in_it_is_not_written() -> None:
    with pytest.raises(ValueError, match="must not be shown"):
        Report(steps=[("my-account", 1.0)]).text({"my-account"})


def test_the_clip_is_a_small_mp4_that_the_simulator_takes() -> None:
    content = CLIP.read_bytes()
    assert content[4:8] == b"ftyp"
    assert len(content) < 20_000
