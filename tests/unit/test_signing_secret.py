"""Test how a guest learns at once that the owner's signing secret has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from stream_downloads.domain.request_budget import Asker
from stream_downloads.services import signing_secret
from stream_downloads.services.signing_secret import (
    ANOTHER_STORES_WITHIN,
    GUEST,
    GUEST_ASKS_FOR,
    OWNER,
    REGISTRATION,
)
from tests.simulator import Fault
from tests.support.secrets_manager import refusal
from tests.support.world import World


class Guest(World):
    """A stack that is a guest, whose owner's secret has just changed."""

    def __init__(self, registration: dict[str, str]) -> None:
        super().__init__()
        self.control.write(REGISTRATION, registration, 1)
        self.stored: list[str] = []
        self.slept: list[float] = []
        self.secret = self.simulator.outbox.rotate_secret(self.clock()).secret

    def refresh(self, store: Callable[[str], bool] | None = None) -> bool:
        """Meet a signature that is wrong under the stored secret."""
        service = replace(self.service, sleep=self.slept.append)
        return signing_secret.refresh_as_guest(service, store or self.store)

    def store(self, secret: str) -> bool:
        """Store the secret, unless it is."""
        is_new = secret not in self.stored
        self.stored.append(secret)
        return is_new

    @property
    def asked(self) -> int:
        """Return how often Cloudflare was asked for the secret."""
        return self.simulator.counts()["get webhook"]


@pytest.fixture
def world() -> Guest:
    return Guest({"position": GUEST})


@pytest.mark.parametrize("registration", [{"position": OWNER}, {}])
def test_only_a_guest_asks(registration: dict[str, str]) -> None:
    world = Guest(registration)
    assert world.refresh() is False
    assert world.asked == 0
    assert world.control.read(signing_secret.QUESTION).version == 0


def test_a_guest_stores_the_secret_on_record(world: Guest) -> None:
    assert world.refresh() is True
    assert world.stored == [world.secret]


def test_a_secret_that_another_process_has_just_stored_is_read_again(world: Guest) -> None:
    world.stored.append(world.secret)
    assert world.refresh() is True


@pytest.mark.parametrize(
    ("seconds", "asks", "waits"), [(0, 1, 1), (3, 1, 1), (4, 1, 0), (59, 1, 0), (60, 2, 0)]
)
def test_all_processes_ask_once_a_minute_and_wait_for_an_answer_under_way(
    world: Guest, seconds: float, asks: int, waits: int
) -> None:
    world.refresh()
    world.clock.sleep(seconds)
    assert world.refresh() is (waits > 0 or asks > 1)
    assert world.asked == asks
    assert world.slept == [ANOTHER_STORES_WITHIN] * waits


def test_of_two_processes_that_would_ask_one_waits(
    world: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.control, "write", lambda *_: False)  # the other was faster
    assert world.refresh() is True
    assert world.asked == 0
    assert world.slept == [ANOTHER_STORES_WITHIN]


def test_a_subscription_that_is_gone_leaves_the_secret_as_it_was(world: Guest) -> None:
    world.simulator.outbox.subscription = None
    assert world.refresh() is False
    assert world.asked == 1
    assert world.stored == []


FAULTS = (Fault.SERVER_ERROR, Fault.THROTTLED, Fault.HANG_AFTER, Fault.SLOW_BODY, Fault.FORBIDDEN)


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_that_cloudflare_does_is_an_error_or_takes_long(
    world: Guest, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    world.simulator.faults.script(fault, times=2)
    world.credentials.stored = world.credentials.in_memory + "2"  # tried again, it would take twice
    began = world.clock()
    assert world.refresh() is False
    assert world.clock() - began <= GUEST_ASKS_FOR
    assert "could not be had from Cloudflare" in caplog.text


def test_without_a_permit_or_credentials_nothing_is_asked(world: Guest) -> None:
    world.service.gateway.permit(600, Asker.OPERATOR)
    assert world.refresh() is False
    world.credentials.in_memory = ""
    world.clock.sleep(60)
    assert world.refresh() is False
    assert world.asked == 0


def test_what_aws_cannot_do_is_an_error_of_the_stack(world: Guest) -> None:
    def refused(_: str) -> bool:
        raise refusal("InternalServiceError")

    with pytest.raises(ClientError):
        world.refresh(refused)
