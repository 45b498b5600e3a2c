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
    with SimulatorServer(StreamSimulator(settings=settings), port=arguments.port) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stopped.set())
        place = {"base_url": server.base_url, "door_url": server.door_url}
        print(json.dumps(place | asdict(settings)), flush=True)
        server.stopped.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    for field in fields(Settings):
        option = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            kind = argparse.BooleanOptionalAction
            parser.add_argument(option, action=kind, default=field.default)
        else:
            parser.add_argument(option, default=field.default)
    return parser


if __name__ == "__main__":
    main()
