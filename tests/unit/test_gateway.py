"""Test one request to Cloudflare within the shared limit: sent, counted, shared."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from botocore.exceptions import ClientError

from stream_downloads.adapters.observability import Metric
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import Budget, Grant
from stream_downloads.adapters.stream_api import CloudflareError, NotReached, RefusalKind, Refused
from stream_downloads.domain.download import iso_time
from stream_downloads.domain.request_budget import USE_WITHIN, Asker
from stream_downloads.services import gateway as gateway_module
from stream_downloads.services.gateway import CALL_SECONDS, NotNow, SendAgain
from tests.simulator import Fault
from tests.support.clock import START
from tests.support.memory import MemoryControl
from tests.support.rows import DEFAULT
from tests.support.world import World

LIMIT = 100


class GatewayWorld(World):
    """A gateway to a simulated Cloudflare with one video, and the metrics that it records."""

    def __init__(self) -> None:
        super().__init__(limit=LIMIT)
        self.uid = self.simulator.upload(webhook_delays=())
        self.gateway = self.service.gateway
        self.others = self.budget  # of another function
        self.metrics: list[Metric] = []
        self.requests: list[str] = []

    def record(self, metric: Metric, **dimensions: str) -> None:
        """Do as `stream_downloads.adapters.observability.record`."""
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


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> GatewayWorld:
    world = GatewayWorld()
    monkeypatch.setattr(gateway_module, "record", world.record)
    return world


# --- Permit


def test_a_permit_is_taken_from_the_limit_that_all_functions_share(world: GatewayWorld) -> None:
    assert world.gateway.permit(3, Asker.OPERATOR).count == 3
    assert world.others.take(LIMIT, Asker.OPERATOR).count == LIMIT - 3
    assert world.gateway.permit(1, Asker.OPERATOR).count == 0
    assert world.gateway.usage() == (LIMIT, LIMIT, None)


def test_a_permit_leaves_a_part_of_the_limit_to_others(world: GatewayWorld) -> None:
    assert world.gateway.permit(LIMIT, Asker.OPERATOR, leave=0.5).count == LIMIT // 2


def test_a_permit_reads_the_credentials_before_its_grant_begins(world: GatewayWorld) -> None:
    world.credentials.seconds = USE_WITHIN + 1
    grant = world.gateway.permit(1, Asker.POLLER)
    world.credentials.seconds = 0.0
    assert world.send(grant)


def test_a_permit_without_credentials_takes_nothing(world: GatewayWorld) -> None:
    world.credentials.in_memory = ""
    with pytest.raises(SecretUnavailable):
        world.gateway.permit(1, Asker.POLLER)
    assert world.metrics == [Metric.CREDENTIALS_REFUSED]
    assert world.others.usage().used == 0


# --- Send


@pytest.mark.parametrize("late", ["before the call", "while the secret is read"])
def test_a_grant_that_has_run_out_sends_nothing(world: GatewayWorld, late: str) -> None:
    grant = world.gateway.permit(1, Asker.POLLER)
    if late == "before the call":
        world.clock.sleep(USE_WITHIN + 0.1)
    else:
        world.credentials.seconds = USE_WITHIN + 0.1
    with pytest.raises(SendAgain):
        world.send(grant)
    assert world.simulator.calls == []
    assert world.gateway.sent == 0
    assert world.requests == []


def test_every_call_is_counted_by_its_name_and_outcome(world: GatewayWorld) -> None:
    stream, uid = world.gateway.stream, world.uid
    world.gateway.send(
        world.gateway.permit(1, Asker.POLLER), stream.create_download, uid, DEFAULT, seconds=1.0
    )
    world.send()
    world.simulator.drop_video(uid)
    with pytest.raises(Refused):
        world.send()
    assert world.requests == ["create_download: ok", "get_video: ok", "get_video: not_found"]
    assert world.metrics == []
    assert world.gateway.sent == 3


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
def test_every_request_that_fails_is_counted_once_with_its_reason(
    world: GatewayWorld, fault: Fault, error: type[CloudflareError], outcome: str
) -> None:
    world.simulator.faults.script(fault)
    with pytest.raises(error):
        world.send()
    assert world.requests == [f"get_video: {outcome}"]
    assert world.gateway.sent == 1


def test_a_429_closes_the_gate_for_all_functions(world: GatewayWorld) -> None:
    before = world.gateway.permit(1, Asker.POLLER)
    world.simulator.faults.script(Fault.THROTTLED)
    with pytest.raises(Refused):
        world.send()
    assert world.metrics == [Metric.GATE_CLOSED]
    assert world.others.take(1, Asker.OPERATOR).blocked_until >= START + 60
    with pytest.raises(SendAgain):
        world.send(before)
    assert world.gateway.sent == 1


def test_refused_credentials_that_have_changed_are_sent_again(world: GatewayWorld) -> None:
    world.credentials.in_memory = "old-token"
    with pytest.raises(SendAgain):
        world.send()
    assert world.credentials.reads == 1
    assert world.metrics == []
    assert world.send()


def test_credentials_that_another_thread_has_renewed_are_not_read_again(
    world: GatewayWorld,
) -> None:
    def renewed_meanwhile(**_: Any) -> None:
        world.credentials.in_memory = "new-token"
        raise Refused("get video", 401, RefusalKind.CREDENTIALS)

    grant = world.gateway.permit(1, Asker.POLLER)
    with pytest.raises(SendAgain):
        world.gateway.send(grant, renewed_meanwhile)
    assert world.credentials.reads == 0


def test_refused_credentials_that_have_not_changed_are_an_alarm(world: GatewayWorld) -> None:
    world.credentials.in_memory = world.credentials.stored = "wrong-token"
    with pytest.raises(Refused):
        world.send()
    assert world.credentials.reads == 1
    assert world.metrics == [Metric.CREDENTIALS_REFUSED]


def test_credentials_that_cannot_be_read_are_an_alarm_and_send_nothing(world: GatewayWorld) -> None:
    grant = world.gateway.permit(1, Asker.POLLER)
    world.credentials.in_memory = ""
    with pytest.raises(SecretUnavailable):
        world.send(grant)
    assert world.metrics == [Metric.CREDENTIALS_REFUSED]
    assert world.gateway.sent == 0


def test_what_a_header_says_of_the_limit_is_shared_once_it_is_settled(world: GatewayWorld) -> None:
    world.simulator.others_send(1195)
    world.send()
    assert world.others.take(6, Asker.OPERATOR).count == 6
    world.gateway.settle()
    assert world.others.take(6, Asker.OPERATOR).count < 5


# --- Ask


def test_a_caller_gets_the_answer_of_one_request(world: GatewayWorld) -> None:
    assert world.ask() == world.gateway.stream.get_video(world.uid, seconds=1.0)
    assert world.requests == ["get_video: ok"]


def test_a_caller_need_not_try_again_when_the_credentials_have_changed(world: GatewayWorld) -> None:
    world.credentials.in_memory = "old-token"
    assert world.ask()
    assert world.requests == ["get_video: credentials", "get_video: ok"]


def test_a_caller_hears_of_credentials_that_are_refused_twice(world: GatewayWorld) -> None:
    world.credentials.in_memory, world.credentials.stored = "old-token", "wrong-token"
    with pytest.raises(Refused):
        world.ask()
    assert world.metrics == [Metric.CREDENTIALS_REFUSED]
    assert world.gateway.sent == 2


def test_a_caller_hears_that_the_limit_is_used_up(world: GatewayWorld) -> None:
    world.others.take(LIMIT, Asker.OPERATOR)
    with pytest.raises(NotNow, match="used up: try again in a minute"):
        world.ask()
    assert world.gateway.sent == 0


def test_a_caller_hears_until_when_cloudflare_wants_no_requests(world: GatewayWorld) -> None:
    world.others.close(60)
    until = world.others.usage().blocked_until or 0.0
    with pytest.raises(NotNow, match=f"try again after {iso_time(until)}"):
        world.ask()


def test_a_caller_hears_that_other_functions_were_first(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryControl, "write", lambda *_: False)
    with pytest.raises(NotNow, match="Many functions send requests at this moment"):
        world.ask()


def test_a_caller_hears_of_a_request_that_could_not_be_sent_in_time(world: GatewayWorld) -> None:
    world.credentials.seconds = USE_WITHIN + 0.1
    with pytest.raises(NotNow, match="could not be sent in time"):
        world.ask()
    assert world.gateway.sent == 0


def test_what_a_callers_answer_says_of_the_limit_is_shared_at_once(world: GatewayWorld) -> None:
    world.simulator.others_send(1195)
    world.ask()
    assert world.others.take(LIMIT, Asker.OPERATOR).count < 5


def fail(*_: object) -> NoReturn:
    raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow"}}, "PutItem")


def test_an_answer_stands_although_its_header_cannot_be_shared(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "settle", fail)
    assert world.ask()


def test_a_429_that_cannot_be_shared_closes_the_gate_of_this_process(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.simulator.faults.script(Fault.THROTTLED)
    grant = world.gateway.permit(1, Asker.POLLER)
    with monkeypatch.context() as broken:
        broken.setattr(MemoryControl, "write", fail)
        with pytest.raises(Refused) as refused:
            world.send(grant)
    assert refused.value.kind is RefusalKind.THROTTLED
    assert world.gateway.permit(1, Asker.OPERATOR).blocked_until > world.clock()
