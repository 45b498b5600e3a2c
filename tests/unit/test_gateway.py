"""One request to Cloudflare within the shared limit: what is sent, counted and told to others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import pytest
from botocore.exceptions import ClientError

from stream_downloads.adapters.observability import Metric
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import Budget, Grant
from stream_downloads.adapters.stream_api import (
    CloudflareError,
    NotReached,
    RefusalKind,
    Refused,
    StreamClient,
)
from stream_downloads.domain.download import iso_time
from stream_downloads.domain.request_budget import USE_WITHIN, Asker
from stream_downloads.services import gateway as gateway_module
from stream_downloads.services.gateway import CALL_SECONDS, Gateway, NotNow, SendAgain
from tests.memory import MemoryControl
from tests.rows import DEFAULT
from tests.simulator import BASE_URL, Fault, InProcessPool, StreamSimulator
from tests.world import START, VirtualClock

LIMIT = 100


class Credentials:
    """A token in memory, and the one that is stored."""

    def __init__(self, token: str, clock: VirtualClock) -> None:
        self.in_memory = self.stored = token
        self.reads = 0
        self.seconds = 0.0
        self._clock = clock

    def headers(self) -> Mapping[str, str]:
        """As `stream_downloads.adapters.secrets.ApiCredentials.headers`."""
        self._clock.sleep(self.seconds)
        if not self.in_memory:
            raise SecretUnavailable("secret arn: it cannot be read")
        return {"Authorization": f"Bearer {self.in_memory}"}

    def refresh(self) -> bool:
        """As `stream_downloads.adapters.secrets.ApiCredentials.refresh`."""
        self.reads += 1
        changed = self.in_memory != self.stored
        self.in_memory = self.stored
        return changed


class Contended(MemoryControl):
    """A control table in which another function always writes first."""

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:  # noqa: ARG002
        return False


class Stage:
    """A gateway to a simulated Cloudflare with one video, and the metrics that it records."""

    def __init__(self, control_type: type[MemoryControl] = MemoryControl) -> None:
        self.clock = VirtualClock()
        self.simulator = StreamSimulator(clock=self.clock)
        self.uid = self.simulator.upload(webhook_delays=())
        self.credentials = Credentials(self.simulator.settings.api_token, self.clock)
        self.control = control_type(self.clock)
        self.others = Budget(self.control, LIMIT, self.clock)  # of another function
        budget = Budget(self.control, LIMIT, self.clock)
        stream = StreamClient(
            self.simulator.settings.account_id,
            base_url=BASE_URL,
            authorization=self.credentials.headers,
            pool=InProcessPool(self.simulator, sleep=self.clock.sleep),
            on_rate_limit=budget.observe,
            monotonic=self.clock,
        )
        credentials: Any = self.credentials
        self.gateway = Gateway(budget, credentials, stream)
        self.metrics: list[Metric] = []
        self.requests: list[str] = []

    def record(self, metric: Metric, **dimensions: str) -> None:
        """As `stream_downloads.adapters.observability.record`."""
        if metric is Metric.CLOUDFLARE_REQUESTS:
            self.requests.append("{call}: {outcome}".format(**dimensions))
        else:
            self.metrics.append(metric)

    def send(self, grant: Grant | None = None) -> object:
        """Send one request, with a grant of its own unless one is given."""
        grant = grant or self.gateway.permit(1, Asker.POLLER)
        return self.gateway.send(grant, self.gateway.stream.get_video, self.uid, seconds=10.0)

    def ask(self) -> object:
        """Send one request that a caller waits for."""
        return self.gateway.ask(self.gateway.stream.get_video, self.uid, seconds=CALL_SECONDS)


@pytest.fixture(params=[MemoryControl])
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(request.param)
    monkeypatch.setattr(gateway_module, "record", stage.record)
    return stage


# --- Permit


def test_a_permit_is_taken_from_the_limit_that_all_functions_share(stage: Stage) -> None:
    assert stage.gateway.permit(3, Asker.OPERATOR).count == 3
    assert stage.others.take(LIMIT, Asker.OPERATOR).count == LIMIT - 3
    assert stage.gateway.permit(1, Asker.OPERATOR).count == 0
    assert stage.gateway.usage() == (LIMIT, LIMIT, None)


def test_a_permit_leaves_a_part_of_the_limit_to_others(stage: Stage) -> None:
    assert stage.gateway.permit(LIMIT, Asker.OPERATOR, leave=0.5).count == LIMIT // 2


def test_a_permit_reads_the_credentials_first_as_that_may_take_longer_than_a_grant_holds(
    stage: Stage,
) -> None:
    stage.credentials.seconds = USE_WITHIN + 1
    grant = stage.gateway.permit(1, Asker.POLLER)
    stage.credentials.seconds = 0.0
    assert stage.send(grant)


def test_a_permit_without_credentials_takes_nothing(stage: Stage) -> None:
    stage.credentials.in_memory = ""
    with pytest.raises(SecretUnavailable):
        stage.gateway.permit(1, Asker.POLLER)
    assert stage.metrics == [Metric.CREDENTIALS_REFUSED]
    assert stage.others.usage().used == 0


# --- Send


@pytest.mark.parametrize("late", ["before the call", "while the secret is read"])
def test_a_grant_that_has_run_out_sends_nothing(stage: Stage, late: str) -> None:
    grant = stage.gateway.permit(1, Asker.POLLER)
    if late == "before the call":
        stage.clock.sleep(USE_WITHIN + 0.1)
    else:
        stage.credentials.seconds = USE_WITHIN + 0.1
    with pytest.raises(SendAgain):
        stage.send(grant)
    assert stage.simulator.calls == []
    assert stage.gateway.sent == 0
    assert stage.requests == []


def test_every_call_is_counted_by_its_name_and_outcome(stage: Stage) -> None:
    stream, uid = stage.gateway.stream, stage.uid
    stage.gateway.send(
        stage.gateway.permit(1, Asker.POLLER), stream.create_download, uid, DEFAULT, seconds=1.0
    )
    stage.send()
    stage.simulator.drop_video(uid)
    with pytest.raises(Refused):
        stage.send()
    assert stage.requests == ["create_download: ok", "get_video: ok", "get_video: not_found"]
    assert stage.metrics == []
    assert stage.gateway.sent == 3


@pytest.mark.parametrize(
    ("fault", "error", "outcome"),
    [
        (Fault.CANNOT_CONNECT, NotReached, "not_reached"),
        (Fault.RESET_AFTER, NotReached, "not_reached"),
        (Fault.CONFLICT, Refused, "conflict"),
        (Fault.NOT_READY, Refused, "rejected"),
        (Fault.SERVER_ERROR, Refused, "unusable"),
        (Fault.UNAUTHORIZED, Refused, "credentials"),
        (Fault.THROTTLED, Refused, "throttled"),
    ],
)
def test_every_request_that_does_not_succeed_is_counted_once_with_its_reason(
    stage: Stage, fault: Fault, error: type[CloudflareError], outcome: str
) -> None:
    stage.simulator.faults.script(fault)
    with pytest.raises(error):
        stage.send()
    assert stage.requests == [f"get_video: {outcome}"]
    assert stage.gateway.sent == 1


def test_a_429_closes_the_gate_for_all_functions(stage: Stage) -> None:
    before = stage.gateway.permit(1, Asker.POLLER)
    stage.simulator.faults.script(Fault.THROTTLED)
    with pytest.raises(Refused):
        stage.send()
    assert stage.metrics == [Metric.GATE_CLOSED]
    assert stage.others.take(1, Asker.OPERATOR).blocked_until >= START + 60
    with pytest.raises(SendAgain):
        stage.send(before)
    assert stage.gateway.sent == 1


def test_refused_credentials_that_have_changed_are_sent_again(stage: Stage) -> None:
    stage.credentials.in_memory = "old-token"
    with pytest.raises(SendAgain):
        stage.send()
    assert stage.credentials.reads == 1
    assert stage.metrics == []
    assert stage.send()


def test_refused_credentials_that_another_thread_has_renewed_are_not_read_again(
    stage: Stage,
) -> None:
    def renewed_meanwhile(**_: Any) -> None:
        stage.credentials.in_memory = "new-token"
        raise Refused("get video", 401, RefusalKind.CREDENTIALS)

    grant = stage.gateway.permit(1, Asker.POLLER)
    with pytest.raises(SendAgain):
        stage.gateway.send(grant, renewed_meanwhile)
    assert stage.credentials.reads == 0


def test_refused_credentials_that_have_not_changed_are_an_alarm(stage: Stage) -> None:
    stage.credentials.in_memory = stage.credentials.stored = "wrong-token"
    with pytest.raises(Refused):
        stage.send()
    assert stage.credentials.reads == 1
    assert stage.metrics == [Metric.CREDENTIALS_REFUSED]


def test_credentials_that_cannot_be_read_are_an_alarm_and_nothing_is_sent(stage: Stage) -> None:
    grant = stage.gateway.permit(1, Asker.POLLER)
    stage.credentials.in_memory = ""
    with pytest.raises(SecretUnavailable):
        stage.send(grant)
    assert stage.metrics == [Metric.CREDENTIALS_REFUSED]
    assert stage.gateway.sent == 0


def test_what_a_header_says_of_the_limit_is_shared_once_it_is_settled(stage: Stage) -> None:
    stage.simulator.others_send(1195)
    stage.send()
    assert stage.others.take(1, Asker.OPERATOR).left > 5
    stage.gateway.settle()
    assert stage.others.take(1, Asker.OPERATOR).left < 5


# --- Ask


def test_a_caller_gets_the_answer_of_one_request(stage: Stage) -> None:
    assert stage.ask() == stage.gateway.stream.get_video(stage.uid, seconds=1.0)
    assert stage.requests == ["get_video: ok"]


def test_a_caller_is_asked_for_no_second_try_when_the_credentials_have_changed(
    stage: Stage,
) -> None:
    stage.credentials.in_memory = "old-token"
    assert stage.ask()
    assert stage.requests == ["get_video: credentials", "get_video: ok"]


def test_a_caller_hears_of_credentials_that_are_refused_twice(stage: Stage) -> None:
    stage.credentials.in_memory, stage.credentials.stored = "old-token", "wrong-token"
    with pytest.raises(Refused):
        stage.ask()
    assert stage.metrics == [Metric.CREDENTIALS_REFUSED]
    assert stage.gateway.sent == 2


def test_a_caller_hears_that_the_limit_is_used_up(stage: Stage) -> None:
    stage.others.take(LIMIT, Asker.OPERATOR)
    with pytest.raises(NotNow, match="used up: try again in a minute"):
        stage.ask()
    assert stage.gateway.sent == 0


def test_a_caller_hears_until_when_cloudflare_wants_no_requests(stage: Stage) -> None:
    stage.others.close(60)
    until = stage.others.usage().blocked_until or 0.0
    with pytest.raises(NotNow, match=f"try again after {iso_time(until)}"):
        stage.ask()


@pytest.mark.parametrize("stage", [Contended], indirect=True)
def test_a_caller_hears_that_other_functions_were_first(stage: Stage) -> None:
    with pytest.raises(NotNow, match="Many functions send requests at this moment"):
        stage.ask()


def test_a_caller_hears_of_a_request_that_could_not_be_sent_in_time(stage: Stage) -> None:
    stage.credentials.seconds = USE_WITHIN + 0.1
    with pytest.raises(NotNow, match="could not be sent in time"):
        stage.ask()
    assert stage.gateway.sent == 0


def test_what_the_answer_to_a_caller_says_of_the_limit_is_shared_at_once(stage: Stage) -> None:
    stage.simulator.others_send(1195)
    stage.ask()
    assert stage.others.take(LIMIT, Asker.OPERATOR).count < 5


def fail(*_: object) -> NoReturn:
    raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow"}}, "PutItem")


def test_an_answer_stands_although_its_header_cannot_be_shared(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "settle", fail)
    assert stage.ask()


def test_a_429_that_cannot_be_shared_closes_the_gate_of_this_process(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.simulator.faults.script(Fault.THROTTLED)
    grant = stage.gateway.permit(1, Asker.POLLER)
    with monkeypatch.context() as broken:
        broken.setattr(MemoryControl, "write", fail)
        with pytest.raises(Refused) as refused:
            stage.send(grant)
    assert refused.value.kind is RefusalKind.THROTTLED
    assert stage.gateway.permit(1, Asker.OPERATOR).blocked_until > stage.clock()
