"""Mix webhooks, polls, faults, deletes and time in any order."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream_downloads.domain.commands import Registration
from stream_downloads.domain.download import DownloadType
from tests.faults.fates import Key, wrong_ends
from tests.faults.sandbox import Blow, Plan
from tests.faults.stage import BOTH, Stage
from tests.simulator import PROGRESS, Fault, Upload, Webhook, signature
from tests.support.secrets_manager import refusal

UPLOADS = st.builds(
    Upload,
    downloads=st.sampled_from([None, None, None, None, "none", "audio", "whatever"]),
    webhook_delays=st.sampled_from([(), (0.0,), (0.0,), (5.0,), (0.0, 90.0), (400.0,)]),
    encode_seconds=st.sampled_from([0.0, 0.0, 45.0]),
    generation_seconds=st.sampled_from([1.0, 20.0, 90.0, 700.0]),
    progress=st.sampled_from(sorted(PROGRESS)),
    private=st.booleans(),
    has_audio=st.sampled_from([True, True, False]),
    error_code=st.sampled_from([None, None, None, "ERR_NON_VIDEO"]),
    failing_creates=st.sampled_from([{}, {}, {"default": 1}, {"audio": 3}, {"default": 4}]),
    claims=st.sampled_from(
        [{}, {}, {}, {"audio": {"status": "paused"}}, {"default": {"url": "https://a.example/b"}}]
    ),
)
CHANCE = st.integers(0, 10**6)


class Chaos(RuleBasedStateMachine):
    """A machine of random events: every invariant holds after each, and all ends well."""

    @initialize(
        limit=st.sampled_from([20, 60, 600]),
        seed=CHANCE,
        skew=st.sampled_from([0, 300]),
        period=st.sampled_from([60.0, 3600.0]),
        video_events=st.booleans(),
        is_guest=st.booleans(),
        has_poison=st.booleans(),
    )
    def begin(
        self,
        *,
        limit: int,
        seed: int,
        skew: int,
        period: float,
        video_events: bool,
        is_guest: bool,
        has_poison: bool,
    ) -> None:
        """Begin with an empty table, or with one row that cannot be dealt with."""
        self.stage = Stage(
            limit=limit, seed=seed, skew=float(skew), period=period, video_events=video_events
        )
        if has_poison:
            self.stage.poison()
        if is_guest:
            self.stage.be_guest()
        else:
            self.stage.register()
        self.mail: list[Webhook] = []
        self.deleted: set[Key] = set()

    # --- the world ----------------------------------------------------------------------------

    @rule(upload=UPLOADS)
    def upload_a_video(self, upload: Upload) -> None:
        self.stage.simulator.upload(upload)
        self.collect()

    @rule(seconds=st.sampled_from([1.0, 7.0, 60.0, 61.0, 300.0, 1200.0]))
    def time_passes(self, seconds: float) -> None:
        self.stage.clock.sleep(seconds)
        self.collect()

    def collect(self) -> None:
        """Put the webhooks that Cloudflare sends into the mail, to arrive in any order."""
        self.mail += self.stage.simulator.due_webhooks()

    @rule(faults=st.lists(st.sampled_from(Fault), min_size=1, max_size=3))
    def requests_will_fail(self, faults: list[Fault]) -> None:
        self.stage.simulator.faults.script(*faults)

    @rule(
        name=st.sampled_from(["receive", "poll", "reconcile", "manage", "register"]),
        number=st.integers(0, 40),
        blow=st.sampled_from(Blow),
    )
    def a_function_will_be_struck(self, name: str, number: int, blow: Blow) -> None:
        self.stage.functions.pop(name, None)
        self.stage.plan = Plan(name, number, blow)

    @rule(is_down=st.booleans())
    def secrets_manager_fails_or_recovers(self, is_down: bool) -> None:  # noqa: FBT001
        self.stage.secrets_manager.fail(refusal("InternalServiceError") if is_down else None)

    @rule()
    def the_api_token_is_replaced(self) -> None:
        self.stage.rotate_api_token()

    @rule(is_compared=st.booleans())
    def the_signing_secret_is_replaced(self, is_compared: bool) -> None:  # noqa: FBT001
        self.stage.rotate_signing_secret()
        if is_compared:
            self.stage.register(Registration.REFRESH)

    @rule(is_down=st.booleans())
    def the_bus_fails_or_recovers(self, is_down: bool) -> None:  # noqa: FBT001
        if self.stage.events:
            self.stage.events.failure = refusal("InternalException") if is_down else None

    @precondition(lambda self: self.stage.simulator.videos)
    @rule(which=CHANCE, kind=st.sampled_from(BOTH))
    def a_download_vanishes(self, which: int, kind: DownloadType) -> None:
        uid = self.any_video(which)
        if kind in self.stage.simulator.videos[uid].downloads:
            self.stage.simulator.drop_download(uid, kind)

    @precondition(lambda self: len(self.stage.simulator.videos) > 1)
    @rule(which=CHANCE)
    def a_video_vanishes(self, which: int) -> None:
        self.stage.simulator.drop_video(self.any_video(which))

    # --- the functions ------------------------------------------------------------------------

    @precondition(lambda self: self.mail)
    @rule(which=CHANCE, again=st.booleans())
    def a_webhook_arrives(self, which: int, again: bool) -> None:  # noqa: FBT001
        sent = self.mail[which % len(self.mail)]
        if not again:
            self.mail.remove(sent)
        self.stage.receive(sent)

    @precondition(lambda self: self.mail)
    @rule(which=CHANCE)
    def a_webhook_is_lost(self, which: int) -> None:
        self.mail.pop(which % len(self.mail))

    @precondition(lambda self: self.mail)
    @rule(which=CHANCE)
    def a_forged_webhook_arrives(self, which: int) -> None:
        sent = self.mail[which % len(self.mail)]
        header = signature(sent.body, "a guess", int(self.stage.clock()))
        self.stage.receive_forged(sent, header)

    @rule(window=st.sampled_from([0.0, 0.0, 20.0]))
    def the_poller_runs(self, window: float) -> None:
        self.stage.poll(window=window)

    @rule(order=st.randoms(use_true_random=False))
    def two_polls_run_at_once(self, order: Random) -> None:
        self.at_once(order, self.stage.poll, lambda: self.stage.poll("poll elsewhere"))

    @precondition(lambda self: self.mail)
    @rule(order=st.randoms(use_true_random=False), which=CHANCE)
    def a_webhook_arrives_twice_while_the_poller_runs(self, order: Random, which: int) -> None:
        sent = self.mail[which % len(self.mail)]
        self.at_once(
            order,
            self.stage.poll,
            lambda: self.stage.receive(sent),
            lambda: self.stage.receive(sent, "receive again"),
        )

    def at_once(self, order: Random, *works: Callable[[], object]) -> None:
        self.stage.at_once(order.randrange, *works)

    @rule()
    def the_library_is_reconciled(self) -> None:
        self.stage.reconcile()

    @precondition(lambda self: self.stage.simulator.videos)
    @rule(which=CHANCE, types=st.sampled_from([BOTH[:1], BOTH[1:], BOTH]))
    def an_operator_deletes(self, which: int, types: tuple[DownloadType, ...]) -> None:
        uid = self.any_video(which)
        there = {row.download_type for row in self.stage.downloads.of_video(uid)}
        self.deleted |= {(uid, kind) for kind in types if kind in there}
        if there & set(types):
            self.stage.command("delete", uid, types)

    @precondition(lambda self: self.stage.simulator.videos)
    @rule(which=CHANCE, types=st.sampled_from([BOTH[:1], BOTH[1:], BOTH]))
    def an_operator_requests(self, which: int, types: tuple[DownloadType, ...]) -> None:
        uid = self.any_video(which)
        self.deleted -= {(uid, kind) for kind in types}
        self.stage.command("request", uid, types)

    @rule()
    def an_operator_retries_everything(self) -> None:
        self.stage.manage(action="retry")

    def any_video(self, which: int) -> str:
        uids = list(self.stage.simulator.videos)
        return uids[which % len(uids)]

    # --- what holds ---------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "stage"):
            self.stage.invariants.check()

    def teardown(self) -> None:
        """Stop all faults, let time pass, and check that every download ended as it should."""
        if not hasattr(self, "stage"):
            return
        self.stage.recover(days=5)
        self.stage.manage(action="retry")  # what a lying Cloudflare has ended
        self.stage.recover(days=5)
        self.stage.invariants.check()
        wrong = list(wrong_ends(self.stage, self.deleted))
        assert not wrong, "\n".join(wrong)


TestChaos = Chaos.TestCase
TestChaos.settings = settings(
    max_examples=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
