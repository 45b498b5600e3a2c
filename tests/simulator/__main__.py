"""Run the simulator: `python -m tests.simulator --port 0` prints its address, as JSON."""

from __future__ import annotations

import argparse
import json
import signal
from dataclasses import asdict, fields

from tests.simulator.core import Settings, StreamSimulator
from tests.simulator.server import SimulatorServer


def main() -> None:
    """Serve until a signal ends it."""
    arguments = _parser().parse_args()
    settings = Settings(
        **{field.name: getattr(arguments, field.name) for field in fields(Settings)}
    )
    simulator = StreamSimulator(
        settings=settings, request_limit=arguments.request_limit, seed=arguments.seed
    )
    with SimulatorServer(simulator, host=arguments.host, port=arguments.port) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stopped.set())
        place = {"base_url": server.base_url, "door_url": server.door_url}
        print(json.dumps(place | asdict(settings)), flush=True)
        server.stopped.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--request-limit", type=int, default=1200, help="in five minutes")
    parser.add_argument("--seed", type=int, default=0)
    for field in fields(Settings):
        if isinstance(field.default, bool):
            kind = argparse.BooleanOptionalAction
            parser.add_argument(_option(field.name), action=kind, default=field.default)
        else:
            parser.add_argument(_option(field.name), default=field.default)
    return parser


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


if __name__ == "__main__":
    main()
