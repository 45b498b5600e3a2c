"""Send signed webhooks from many clients at once amid a flood: no 5xx, no lost intent.

The real template on the emulator: ``make load``. The latency is that of the
emulator, which runs every function on this machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final

import urllib3

from tests.e2e.deployed import Deployed, deployed_on
from tests.support.deployment import build
from tests.support.emulator import emulator
from tests.support.events import encoded

# The parts of the requests: the first are webhooks, some of which are sent again.
SIGNED: Final = 0.4
AGAIN: Final = 0.2
WRONGLY_SIGNED: Final = 0.2


@dataclass
class Load:
    """The requests that were sent, and the answers.

    Attributes:
        seconds: the time of each answer to a webhook.
        signed: the number of webhooks by the status of their answer; 0 is no answer.
        unsigned: the same for all other requests.
        lost: the videos whose webhook was answered with 200, and that have no row.
    """

    seconds: list[float] = field(default_factory=list)
    signed: Counter[int] = field(default_factory=Counter)
    unsigned: Counter[int] = field(default_factory=Counter)
    lost: set[str] = field(default_factory=set)

    @property
    def is_good(self) -> bool:
        """Return True if every webhook was recorded, and nothing else was."""
        return not self.lost and set(self.signed) == {200} and set(self.unsigned) <= {403}


class Client:
    """A client that sends requests until the time is over."""

    def __init__(self, deployed: Deployed, secret: str, number: int) -> None:
        """Sign webhooks with ``secret``; ``number`` decides what this client sends."""
        self._deployed = deployed
        self._secret = secret
        self._chance = random.Random(number)  # noqa: S311
        self.load = Load()
        self.heard_of: list[str] = []

    def send_until(self, end: float) -> None:
        """Send one request after the other; ``end`` is on the monotonic clock."""
        while time.monotonic() < end:
            if self._chance.random() < SIGNED:
                self._send_webhook()
            else:
                self._send_something_else()

    def _send_webhook(self) -> None:
        if self.heard_of and self._chance.random() < AGAIN:
            uid = self._chance.choice(self.heard_of)
        else:
            uid = self._deployed.upload(webhook_delays=())
        cloudflare = self._deployed.cloudflare
        body = encoded(cloudflare.videos[uid].described(cloudflare.clock()))
        began = time.monotonic()
        status = self._post(body, self._deployed.sign(body, secret=self._secret))
        self.load.seconds.append(time.monotonic() - began)
        self.load.signed[status] += 1
        if status == 200:
            self.heard_of.append(uid)

    def _send_something_else(self) -> None:
        body = self._chance.randbytes(self._chance.randrange(2_000))
        wrong = self._chance.random() < WRONGLY_SIGNED
        signature = self._deployed.sign(body, secret="nobody's") if wrong else None
        self.load.unsigned[self._post(body, signature)] += 1

    def _post(self, body: bytes, signature: str | None) -> int:
        try:
            return self._deployed.post(body, signature)
        except urllib3.exceptions.HTTPError:
            return 0


def put_load_on(deployed: Deployed, *, clients: int, seconds: float) -> Load:
    """Have that many clients send for ``seconds``.

    Args:
        deployed: the stack.
        clients: how many send at the same time.
        seconds: how long they send.
    """
    secret = deployed.signing_secret()
    crowd = [Client(deployed, secret, number) for number in range(clients)]
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(clients) as pool:
        for running in [pool.submit(client.send_until, end) for client in crowd]:
            running.result()
    rows = {uid for uid, _ in deployed.stack.rows()}
    whole = Load(lost={uid for client in crowd for uid in client.heard_of} - rows)
    for client in crowd:
        whole.seconds += client.load.seconds
        whole.signed += client.load.signed
        whole.unsigned += client.load.unsigned
    return whole


def main() -> int:
    """Deploy, load, report; return 1 if an answer was 5xx or an intent was lost."""
    parser = argparse.ArgumentParser("python -m tests.bench.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    with emulator() as aws:
        template = build(aws.directory)
        with deployed_on(aws, template, {"PollWindowSeconds": "0"}) as deployed:
            load = put_load_on(deployed, clients=arguments.clients, seconds=arguments.seconds)
    print(f"{arguments.clients} clients, {arguments.seconds:g} s, on the emulator")
    for what, answers in (("webhooks", load.signed), ("everything else", load.unsigned)):
        by_status = ", ".join(
            f"{count} times {status}" for status, count in sorted(answers.items())
        )
        print(f"{what}: {by_status}")
    percents = quantiles(load.seconds, n=100, method="inclusive")
    shown = {"median": percents[49], "95 %": percents[94], "99 %": percents[98]}
    latency = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in shown.items())
    print(f"a webhook's answer took: {latency}, at most {max(load.seconds):.2f} s")
    print(f"lost intents: {len(load.lost)}")
    return 0 if load.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
