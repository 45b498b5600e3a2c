"""Search for an input that the webhook's code neither accepts nor refuses with a typed error.

    make fuzz                          ten minutes
    make fuzz FUZZ=-max_total_time=60  or as long as libFuzzer is told

The search is guided by coverage (atheris, in its own environment). A short search with Hypothesis
is part of the tests.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

SECRET: Final = b"example-signing-secret"
NOW: Final = 1230811200
EXAMPLE: Final = (Path(__file__).parents[2] / "events" / "video_ready.json").read_bytes()

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["stream_downloads"]):
    from stream_downloads.adapters import function_url
    from stream_downloads.domain import signature, video


def try_one(data: bytes) -> None:
    """Fail if any of the three steps raises anything but its typed refusal."""
    given = atheris.FuzzedDataProvider(data)
    what = given.ConsumeIntInRange(0, 4)
    if what == 0:
        header = given.ConsumeUnicode(1200)
        body = given.ConsumeBytes(sys.maxsize)
        with contextlib.suppress(signature.Unauthentic):
            signature.verify(body, header, [SECRET], NOW)
            # Only a request with a valid signature comes here.
            assert signature.sign(body, SECRET, NOW).rpartition("=")[2] in header.lower()
    elif what == 1:
        parse(given.ConsumeBytes(sys.maxsize))
    elif what == 2:
        parse(given.ConsumeUnicode(sys.maxsize).encode(errors="surrogatepass"))
    elif what == 3:
        said = json.loads(EXAMPLE)
        for part in (said, said["status"], said["meta"]):
            part[given.PickValueInList(list(part))] = any_value(given)
        parse(json.dumps(said).encode(errors="surrogatepass"))
    else:
        event = {
            "requestContext": {"http": {"method": "POST"}},
            "headers": {given.ConsumeUnicode(20): given.ConsumeUnicode(100)},
            "isBase64Encoded": given.ConsumeBool(),
            "body": given.ConsumeUnicode(sys.maxsize),
        }
        with contextlib.suppress(function_url.BadTransport):
            parse(function_url.unwrap(event).body)


def any_value(given: Any) -> object:
    """Return a value of any JSON type."""
    match given.ConsumeIntInRange(0, 5):
        case 0:
            return given.ConsumeInt(16)
        case 1:
            return given.ConsumeFloat()
        case 2:
            return given.PickValueInList([None, True, False, [], {}, "ready", "error", "\ud800"])
        case 3:
            return [given.ConsumeUnicode(10)]
        case _:
            return given.ConsumeUnicode(2000)


def parse(body: bytes) -> None:
    """Read an event, and check that what was read can be stored."""
    with contextlib.suppress(video.Unusable):
        found = video.parse_webhook(body)
        assert len(found.uid) == 32
        for text in (found.creator, found.name, found.error_code, found.error_message):
            assert text is None or 0 < len(text.encode()) <= 4096


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
