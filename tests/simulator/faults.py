"""List the faults of a request, and decide which request has one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from tests.simulator.messages import Response, Wire, failure, success
from tests.simulator.videos import CUSTOMER_HOST, download_url

HUGE_BYTES = 20 * 1024 * 1024


class Fault(StrEnum):
    """One way for a request to fail. The three tables below define each."""

    # Cloudflare refuses, and does nothing.
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    MALFORMED_CREDENTIALS = "malformed credentials"
    NOT_FOUND = "not found"
    CONFLICT = "conflict"
    EXISTS = "exists"
    NOT_READY = "not ready"
    THROTTLED = "throttled"
    THROTTLED_SILENTLY = "throttled without retry-after"
    THROTTLED_UNTIL_A_DATE = "throttled with a date"
    THROTTLED_NEGATIVE = "throttled with a negative number"
    THROTTLED_NAN = "throttled with NaN"
    THROTTLED_HUGE = "throttled with a huge number"
    THROTTLED_HTML = "throttled with a page"
    SERVER_ERROR = "server error"
    UNAVAILABLE_HTML = "502 with a page"
    NOT_FOUND_HTML = "404 with a page"
    SUCCESS_FALSE = "success false in a 200"
    REDIRECT = "redirect"

    # Cloudflare carries it out, but the answer is broken.
    SERVER_ERROR_AFTER = "server error after it was done"
    TRUNCATED_JSON = "truncated JSON"
    WRONG_CONTENT_TYPE = "wrong content type"
    RESULT_NULL = "result null"
    RESULT_LIST = "result a list"
    RESULT_TEXT = "result a text"
    ENVELOPE_LIST = "a list in place of the envelope"
    HUGE_BODY = "huge body"

    # Cloudflare carries it out, but describes downloads wrongly.
    STATUS_UNKNOWN = "unknown status"
    PERCENT_NULL = "percent null"
    PERCENT_OVER_100 = "percent over 100"
    PERCENT_NEGATIVE = "percent negative"
    PERCENT_TEXT = "percent a text"
    PERCENT_NAN = "percent NaN"
    URL_MISSING = "no url"
    URL_FOREIGN = "url of a foreign host"
    URL_LOOKALIKE = "url of evilcloudflarestream.com"
    URL_HTTP = "url over http"
    URL_PORT = "url with a port"
    URL_USERINFO = "url with userinfo"
    URL_OTHER_UID = "url of another video"

    # The network.
    CANNOT_CONNECT = "cannot connect"
    RESET_BEFORE = "reset before it was done"
    RESET_AFTER = "reset after it was done"
    HANG_BEFORE = "hang, nothing done"
    HANG_AFTER = "hang after it was done"
    SLOW_HEAD = "slow headers"
    SLOW_BODY = "slow drip"
    CUT_OFF = "body cut off"


def _throttled(retry_after: str | None) -> Callable[[], Response]:
    def answer() -> Response:
        response = failure(429, 10100, "Rate limited. Please wait and consider throttling")
        if retry_after is not None:
            response.headers["retry-after"] = retry_after
        return response

    return answer


def _page(status: int) -> Callable[[], Response]:
    page = b"<!DOCTYPE html><html><head><title>cloudflare</title></head></html>"
    return lambda: Response(status, page, {"content-type": "text/html; charset=UTF-8"})


def _on_the_wire(wire: Wire) -> Callable[[], Response]:
    return lambda: Response(0, b"", wire=wire)


# The answers in place of carrying out the request.
REFUSALS: dict[Fault, Callable[[], Response]] = {
    Fault.UNAUTHORIZED: lambda: failure(401, 10000, "Authentication error"),
    Fault.FORBIDDEN: lambda: failure(403, 10000, "Authentication error"),
    Fault.MALFORMED_CREDENTIALS: lambda: failure(400, 6003, "Invalid request headers"),
    Fault.NOT_FOUND: lambda: failure(404, 10003, "Not Found: The requested resource was not found"),
    Fault.CONFLICT: lambda: failure(409, 10005, "Conflict"),
    Fault.EXISTS: lambda: failure(400, 10011, "The download exists already"),
    Fault.NOT_READY: lambda: failure(400, 10005, "Bad Request: The video is not ready to view"),
    Fault.THROTTLED: _throttled("60"),
    Fault.THROTTLED_SILENTLY: _throttled(None),
    Fault.THROTTLED_UNTIL_A_DATE: _throttled("Wed, 21 Oct 2099 07:28:00 GMT"),
    Fault.THROTTLED_NEGATIVE: _throttled("-60"),
    Fault.THROTTLED_NAN: _throttled("NaN"),
    Fault.THROTTLED_HUGE: _throttled("1" + "0" * 30),
    Fault.THROTTLED_HTML: _page(429),
    Fault.SERVER_ERROR: lambda: failure(500, 10001, "Internal Server Error"),
    Fault.UNAVAILABLE_HTML: _page(502),
    Fault.NOT_FOUND_HTML: _page(404),
    Fault.SUCCESS_FALSE: lambda: replace(failure(500, 0, "Something went wrong"), status=200),
    Fault.REDIRECT: lambda: Response(302, b"", {"location": "https://elsewhere.example/"}),
    Fault.CANNOT_CONNECT: _on_the_wire(Wire.CANNOT_CONNECT),
    Fault.RESET_BEFORE: _on_the_wire(Wire.RESET),
    Fault.HANG_BEFORE: _on_the_wire(Wire.HANG),
}

# The changes of the answer after carrying out the request.
SPOILED: dict[Fault, Callable[[Response], Response]] = {
    Fault.SERVER_ERROR_AFTER: lambda _: failure(500, 10001, "Internal Server Error"),
    Fault.TRUNCATED_JSON: lambda response: replace(
        response, body=response.body[: len(response.body) // 2]
    ),
    Fault.WRONG_CONTENT_TYPE: lambda response: replace(
        response, headers={"content-type": "text/plain"}
    ),
    Fault.RESULT_NULL: lambda _: success(None),
    Fault.RESULT_LIST: lambda _: success([]),
    Fault.RESULT_TEXT: lambda _: success("fine"),
    Fault.ENVELOPE_LIST: lambda response: replace(response, body=b"[" + response.body + b"]"),
    Fault.HUGE_BODY: lambda response: replace(
        response, body=response.body[:-1] + b" " * HUGE_BYTES + b"}"
    ),
    Fault.RESET_AFTER: lambda _: Response(0, b"", wire=Wire.RESET),
    Fault.HANG_AFTER: lambda _: Response(0, b"", wire=Wire.HANG),
    Fault.SLOW_HEAD: lambda response: replace(response, wire=Wire.SLOW_HEAD),
    Fault.SLOW_BODY: lambda response: replace(response, wire=Wire.SLOW_BODY),
    Fault.CUT_OFF: lambda response: replace(response, wire=Wire.CUT_OFF),
}

# The changes of each download in the answer. "{path}" is the path of the right URL.
ODDITIES: dict[Fault, dict[str, object]] = {
    Fault.STATUS_UNKNOWN: {"status": "paused"},
    Fault.PERCENT_NULL: {"percentComplete": None},
    Fault.PERCENT_OVER_100: {"percentComplete": 140},
    Fault.PERCENT_NEGATIVE: {"percentComplete": -1},
    Fault.PERCENT_TEXT: {"percentComplete": "39.000000"},
    Fault.PERCENT_NAN: {"percentComplete": float("nan")},
    Fault.URL_MISSING: {"url": None},
    Fault.URL_FOREIGN: {"url": "https://elsewhere.example{path}"},
    Fault.URL_LOOKALIKE: {"url": "https://evilcloudflarestream.com{path}"},
    Fault.URL_HTTP: {"url": f"http://{CUSTOMER_HOST}{{path}}"},
    Fault.URL_PORT: {"url": f"https://{CUSTOMER_HOST}:8443{{path}}"},
    Fault.URL_USERINFO: {"url": f"https://you@{CUSTOMER_HOST}{{path}}"},
    Fault.URL_OTHER_UID: {"url": download_url("0" * 32, "default")},
}


def refused(fault: Fault) -> Response | None:
    """Return the answer to a request that is not carried out; None if the fault comes later."""
    return REFUSALS[fault]() if fault in REFUSALS else None


def spoiled(fault: Fault, response: Response) -> Response:
    """Return the answer to a request that was carried out, changed by the fault."""
    if fault in SPOILED:
        return SPOILED[fault](response)
    envelope = json.loads(response.body)
    result = envelope["result"]
    if isinstance(result, dict):
        for download in (result, *result.values()):
            if isinstance(download, dict) and "percentComplete" in download:
                download.update(_odd(ODDITIES[fault], download))
    return replace(response, body=json.dumps(envelope).encode())


def _odd(oddity: dict[str, object], download: dict[str, Any]) -> dict[str, object]:
    path = "/" + str(download.get("url")).partition("://")[2].partition("/")[2]
    return {
        name: value.replace("{path}", path) if isinstance(value, str) else value
        for name, value in oddity.items()
    }


@dataclass(slots=True)
class _Scripted:
    fault: Fault
    calls: Collection[str] | None
    skip: int
    times: int


class Faults:
    """The plan of faults: scripted ones first, then random ones."""

    def __init__(self) -> None:
        self.history: list[tuple[str, Fault]] = []
        self._scripts: list[_Scripted] = []
        self._random = random.Random(0)  # noqa: S311
        self._share = 0.0
        self._among: tuple[Fault, ...] = ()
        self._calls: Collection[str] | None = None

    def script(
        self, *faults: Fault, calls: Collection[str] | None = None, skip: int = 0, times: int = 1
    ) -> None:
        """Let each fault happen ``times`` times, one after the other.

        Only requests of the named ``calls`` count (such as ``"create download"``); the first
        ``skip`` of them succeed.
        """
        for position, fault in enumerate(faults):
            first = skip if position == 0 else 0
            self._scripts.append(_Scripted(Fault(fault), calls, first, times))

    def at_random(
        self,
        share: float,
        *,
        seed: int,
        among: Iterable[Fault] = tuple(Fault),
        calls: Collection[str] | None = None,
    ) -> None:
        """Let this share (0 to 1) of all later requests of the named ``calls`` fail."""
        self._random = random.Random(seed)  # noqa: S311
        self._share, self._among, self._calls = share, tuple(among), calls

    def clear(self) -> None:
        """Stop all faults. The history stays."""
        self._scripts.clear()
        self._share = 0.0

    def next(self, call: str) -> Fault | None:
        """Return the fault of this request, if it has one."""
        fault = self._next_scripted(call) or self._next_random(call)
        if fault:
            self.history.append((call, fault))
        return fault

    def _next_scripted(self, call: str) -> Fault | None:
        for script in self._scripts:
            if script.calls is None or call in script.calls:
                if script.skip > 0:
                    script.skip -= 1
                    return None
                script.times -= 1
                if script.times == 0:
                    self._scripts.remove(script)
                return script.fault
        return None

    def _next_random(self, call: str) -> Fault | None:
        if not self._share or (self._calls is not None and call not in self._calls):
            return None
        return self._random.choice(self._among) if self._random.random() < self._share else None
