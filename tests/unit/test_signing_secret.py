"""Test how a guest learns at once that the owner's signing secret has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stream_downloads.services import signing_secret
from stream_downloads.services.signing_secret import GUEST, OWNER, REGISTRATION
from tests.simulator import Fault
from tests.support.secrets_manager import refusal
from tests.support.world import World


class Guest(World):
    """A stack that is a guest, of whose owner the secret has just changed."""

    def __init__(self, position: str | None = GUEST) -> None:
        super().__init__()
        self.control.write(REGISTRATION, {"position": position, "since": "then"}, 1)
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


@pytest.mark.parametrize("position", [OWNER, None])
def test_only_a_guest_asks(position: str | None) -> None:
    world = Guest(position)
    before = world.control.read(REGISTRATION)
    assert world.refresh() is False
    assert world.asked == 0
    assert world.control.read(REGISTRATION) == before


def test_a_guest_stores_the_secret_on_record_and_stays_what_it_is() -> None:
    world = Guest()
    assert world.refresh() is True
    assert world.stored == [world.secret]
    registration = world.control.read(REGISTRATION).value
    assert registration.pop("asked_at") == pytest.approx(world.clock(), abs=1)
    assert registration == {"position": GUEST, "since": "then"}


def test_a_secret_that_is_stored_already_is_nothing_new() -> None:
    world = Guest()
    world.stored.append(world.secret)
    assert world.refresh() is False
    assert world.asked == 1


@pytest.mark.parametrize(
    ("seconds", "asks", "waits"),
    [(0, 1, 1), (2, 1, 1), (3, 1, 0), (59, 1, 0), (60, 2, 0)],
)
def test_all_processes_ask_once_a_minute_and_wait_for_an_answer_under_way(
    seconds: float, asks: int, waits: int
) -> None:
    world = Guest()
    world.refresh()
    world.clock.sleep(seconds)
    assert world.refresh(lambda _: False) is bool(waits)
    assert world.asked == asks
    assert world.slept == [signing_secret.ANOTHER_STORES_WITHIN] * waits


def test_of_two_processes_that_would_ask_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Guest()
    monkeypatch.setattr(world.control, "write", lambda *_: False)  # the other was faster
    assert world.refresh() is True
    assert world.asked == 0
    assert world.slept == [signing_secret.ANOTHER_STORES_WITHIN]


def test_a_subscription_that_is_gone_leaves_the_secret_as_it_was() -> None:
    world = Guest()
    world.simulator.outbox.subscription = None
    assert world.refresh() is False
    assert world.stored == []


@pytest.mark.parametrize(
    "fault", [Fault.SERVER_ERROR, Fault.THROTTLED, Fault.HANG_AFTER, Fault.FORBIDDEN]
)
def test_nothing_that_cloudflare_does_is_an_error(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    world = Guest()
    world.simulator.faults.script(fault, times=2)
    began = world.clock()
    assert world.refresh() is False
    assert world.clock() - began <= signing_secret.GUEST_ASKS_FOR
    assert "could not be read" in caplog.text


def test_nothing_that_aws_does_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    world = Guest()

    def refused(_: str) -> bool:
        raise refusal("InternalServiceError")

    assert world.refresh(refused) is False
    assert "could not be read" in caplog.text
