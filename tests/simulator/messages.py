"""Define requests, answers, and the envelope around a result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Wire(Enum):
    """The way in which an answer is sent. The transport carries out all but the first."""

    WHOLE = auto()
    CANNOT_CONNECT = auto()  # nothing was sent
    RESET = auto()  # the connection breaks before the answer
    HANG = auto()  # nothing comes, and the connection stays
    SLOW_HEAD = auto()  # the status and the headers come byte by byte
    SLOW_BODY = auto()  # the body comes byte by byte
    CUT_OFF = auto()  # the connection breaks in the middle of the body


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` without the query; header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True)
class Response:
    """An answer and how it is sent; status 0 means that there is none."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    wire: Wire = Wire.WHOLE


def success(result: object) -> Response:
    """Return the envelope of a call that worked."""
    return Response(200, _encode(result, []))


def failure(status: int, code: int, message: str, *more: tuple[int, str]) -> Response:
    """Return the envelope of a call that did not, with one error or several."""
    errors = [{"code": code, "message": message} for code, message in ((code, message), *more)]
    return Response(status, _encode(None, errors))


def _encode(result: object, errors: list[dict[str, object]]) -> bytes:
    return json.dumps(
        {"result": result, "success": not errors, "errors": errors, "messages": []}
    ).encode()
