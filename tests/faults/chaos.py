"""Run a week in virtual time: ten thousand videos, and three of ten requests fail.

    make chaos
    make chaos CHAOS="--videos 1000 --share 0.5 --days 2 --seed 7"

Webhooks are lost, sent twice, late and out of order; functions are killed in the middle, and
overlap; downloads fail, vanish, and are deleted by hand. Every invariant is checked at each step.
Then the faults stop, and every download has to end as it should. Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from stream_downloads.domain.commands import Registration
from stream_downloads.domain.download import Status
from tests.faults.fates import Key, wrong_ends
from tests.faults.sandbox import DEADLY, Plan
from tests.faults.stage import Stage
from tests.simulator import PROGRESS, Fault, Upload, Webhook, unreliable
from tests.support.secrets_manager import refusal

# These are rarer than other faults. A 429 closes the gate for minutes and a refused token ends the
# run, so that many of them would leave little else to test. (A body of 20 MiB takes real time.)
RARE = tuple(
    fault
    for fault in Fault
    if fault.startswith("throttled")
    or fault in (Fault.UNAUTHORIZED, Fault.FORBIDDEN, Fault.MALFORMED_CREDENTIALS, Fault.HUGE_BODY)
)
FAULTS = tuple(fault for fault in Fault if fault not in RARE) * 12 + RARE


class Week:
    """The videos, what happens to them, and what operators want."""

    def __init__(self, videos: int, share: float, days: float, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311
        self.minutes = self.chance.choice([1, 60])
        self.stage = Stage(limit=600, seed=seed, video_events=True, period=self.minutes * 60.0)
        if self.chance.random() < 0.5:
            self.stage.be_guest()
        else:
            self.stage.register()
        self.stage.poison()
        self.stage.simulator.faults.at_random(share, seed=seed, among=FAULTS)
        self.stage.simulator.habit = unreliable(seed, lost=0.1, twice=0.2, late_seconds=600.0)
        begins, ends = self.stage.clock(), self.stage.clock() + days * 86_400
        self.uploads = sorted(self.chance.uniform(begins, ends) for _ in range(videos))
        self.ends = ends
        self.deleted: set[Key] = set()
        self.unanswered: list[Webhook] = []
        self.webhooks = Counter[str]()

    def pass_by(self) -> None:
        """Run minute by minute until the last video is uploaded, and an hour longer."""
        minutes = 0
        while self.stage.clock() < self.ends + 3600.0:
            self.minute()
            minutes += 1
            if minutes % self.minutes == 0:
                self.stage.reconcile()
            if minutes % 5 == 0:
                self.stage.register(Registration.REFRESH)
            if minutes % 1440 == 0:
                self.say_how_far()

    def minute(self) -> None:
        """Run one minute."""
        while self.uploads and self.uploads[0] <= self.stage.clock():
            del self.uploads[0]
            self.stage.simulator.upload(self.any_upload())
        sent = self.unanswered + self.stage.simulator.due_webhooks()
        self.chance.shuffle(sent)
        self.unanswered = []
        self.strike()
        for webhook in sent:
            status = self.stage.receive(webhook)
            self.webhooks[str(status)] += 1
            # It is not documented whether Cloudflare sends again: here it sometimes does.
            if status != 200 and self.chance.random() < 0.5:
                self.unanswered.append(webhook)
        if self.chance.random() < 0.05:
            self.by_hand()
        if self.chance.random() < 0.05:
            self.stage.at_once(
                self.chance.randrange, self.stage.poll, lambda: self.stage.poll("poll elsewhere")
            )
        else:
            self.stage.poll(window=self.chance.choice([0.0, 0.0, 50.0]))
        self.stage.clock.sleep(60 - self.stage.clock() % 60)

    def strike(self) -> None:
        """Sometimes let the bus fail, and kill a function during its work."""
        assert self.stage.events
        fails = self.chance.random() < 0.05
        self.stage.events.failure = refusal("InternalException") if fails else None
        if self.chance.random() < 0.001:
            self.stage.rotate_signing_secret()
        if self.chance.random() < 0.1:
            name = self.chance.choice(["receive", "poll", "reconcile", "register"])
            self.stage.functions.pop(name, None)
            self.stage.plan = Plan(name, self.chance.randrange(60), self.chance.choice(DEADLY))

    def by_hand(self) -> None:
        """Sometimes delete or request a download, at Cloudflare or by command."""
        rows = list(self.stage.downloads.rows.values())
        row = self.chance.choice(rows)
        if row.video_uid not in self.stage.simulator.videos:
            return
        video, kind = self.stage.simulator.videos[row.video_uid], row.download_type
        match self.chance.randrange(4):
            case 0:
                self.stage.command("delete", row.video_uid, [kind])
                self.deleted.add(row.key)
            case 1:
                self.stage.command("request", row.video_uid, [kind])
                self.deleted.discard(row.key)
            case 2 if row.status is Status.INPROGRESS and kind in video.downloads:
                self.stage.simulator.drop_download(row.video_uid, kind)
            case _:
                self.stage.manage(action="status", video_uid=row.video_uid)

    def any_upload(self) -> Upload:
        """Return a video like those of a real library, sometimes an unusual one."""
        chance = self.chance
        return Upload(
            encode_seconds=chance.choice([0.0, 30.0]),
            generation_seconds=chance.lognormvariate(4.5, 1.0),
            progress=chance.choice(sorted(PROGRESS)),
            private=chance.random() < 0.2,
            has_audio=chance.random() > 0.02,
            error_code="ERR_NON_VIDEO" if chance.random() < 0.02 else None,
            downloads=chance.choice([None] * 8 + ["none", "audio"]),
            failing_creates={"default": chance.choice([1, 2, 5])} if chance.random() < 0.05 else {},
            noise=3.0,
        )

    def say_how_far(self) -> None:
        """Print one line a day."""
        rows = Counter(row.status.value for row in self.stage.downloads.rows.values())
        print(f"  day {(self.stage.clock() - 1.8e9) / 86_400:.0f}: {dict(rows)}", flush=True)


def main() -> int:
    """Run a week; return 1 if anything is wrong."""
    arguments = _arguments()
    began = time.monotonic()
    week = Week(arguments.videos, arguments.share, arguments.days, arguments.seed)
    stage = week.stage
    print(f"{arguments.videos} videos, {arguments.share:.0%} of requests faulty:", flush=True)
    week.pass_by()
    faulty = len(stage.simulator.faults.history)
    requests = len(stage.simulator.calls)
    stage.recover(days=6)
    ended_by_lies = sum(1 for _ in wrong_ends(stage, week.deleted))
    stage.manage(action="retry")
    stage.recover(days=6)
    wrong = [*stage.invariants.broken, *wrong_ends(stage, week.deleted)]
    figures = {
        "downloads": len(stage.downloads.rows) - 1,
        "by status": dict(
            sorted(Counter(row.status.value for row in stage.downloads.rows.values()).items())
        ),
        "webhooks by answer": dict(sorted(week.webhooks.items())),
        "videos found by reconciliation": round(stage.metrics["VideosFoundByReconciliation"]),
        "requests while faulty": requests,
        "faulty requests": f"{faulty} ({faulty / requests:.0%})",
        "kinds of fault": len({fault for _, fault in stage.simulator.faults.history}),
        "ReconcileMinutes": week.minutes,
        "webhooks passed on": len(stage.events.taken) if stage.events else 0,
        "functions killed": stage.deaths,
        "429s heard": round(stage.metrics["GateClosed"]),
        "most requests in five minutes": f"{stage.invariants.most_requests} of {stage.limit}",
        "URLs refused": round(stage.metrics["UrlsRefused"]),
        "requests per download": round(len(stage.simulator.calls) / len(stage.downloads.rows), 2),
        "ended in error by false answers, fixed by retry": ended_by_lies,
        "lost, or wrong": len(wrong),
        "seconds": round(time.monotonic() - began),
    }
    for name, figure in figures.items():
        print(f"{name:>50}: {figure}")
    print("\n".join(wrong[:20]))
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.faults.chaos")
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=0.3, help="of requests that go wrong")
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
