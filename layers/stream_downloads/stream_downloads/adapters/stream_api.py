"""Cloudflare's Stream API: typed calls, typed errors, one deadline."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
)

from stream_downloads.adapters.http import CONNECT_SECONDS, READ_SECONDS, bounded_pool
from stream_downloads.domain.download import DownloadType
from stream_downloads.domain.request_budget import RateLimit
from stream_downloads.domain.video import VIDEO_UID, Unusable, Video, VideoPage, parse_video

_Result = TypeVar("_Result")

_ACCOUNT_ID = re.compile("[0-9a-fA-F]{32}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+( [\x21-\x7e]+)*")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_RATE_LIMIT_ITEM = re.compile(r";\s*([rt])=([0-9]{1,9})(?![0-9.])")
_READ_BYTES = 64 * 1024
_MAX_MESSAGE_CHARACTERS = 300
_EXISTS = re.compile(r"(?<!no longer )\bexists\b|\balready (exist|created|enabled)", re.IGNORECASE)


# What Cloudflare says


class ApiMessage(NamedTuple):
    """One entry of the envelope's ``errors`` (or ``messages``)."""

    code: int
    message: str


class DownloadState(NamedTuple):
    """A download as Cloudflare describes it; its values are not checked yet.

    ``status`` is free text (empty when absent), ``percent_complete`` is None unless it is a number
    from 0 to 100, and ``url`` is set before the download is ready, and does not work until then.
    """

    status: str
    percent_complete: float | None
    url: str | None


@dataclass(frozen=True, slots=True)
class WebhookSubscription:
    """The account's one webhook subscription, with the secret that signs its events."""

    notification_url: str
    secret: str = field(repr=False)
    modified: str | None


# What can go wrong


class RefusalKind(StrEnum):
    """Name what an unsuccessful answer means for the caller."""

    CREDENTIALS = "credentials"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    THROTTLED = "throttled"
    REJECTED = "rejected"
    UNUSABLE = "unusable"


# Cloudflare does not publish the codes. These are seen in answers of the Stream API and, for bad
# credentials, in the issue trackers of its clients.
_KIND_BY_CODE = {
    6003: RefusalKind.CREDENTIALS,  # invalid request headers: the token or key has the wrong form
    9103: RefusalKind.CREDENTIALS,  # unknown key or e-mail
    9106: RefusalKind.CREDENTIALS,  # no credentials
    9109: RefusalKind.CREDENTIALS,  # invalid access token
    10000: RefusalKind.CREDENTIALS,
    10003: RefusalKind.NOT_FOUND,
    10004: RefusalKind.REJECTED,  # decoding error
    10005: RefusalKind.REJECTED,  # bad request
    7000: RefusalKind.REJECTED,  # no such route: says nothing about the video, even with a 404
    7003: RefusalKind.REJECTED,
}
_KIND_BY_STATUS = {
    401: RefusalKind.CREDENTIALS,
    403: RefusalKind.CREDENTIALS,
    404: RefusalKind.NOT_FOUND,
    408: RefusalKind.UNUSABLE,
    409: RefusalKind.CONFLICT,
    429: RefusalKind.THROTTLED,
}
# A 404 of these calls says nothing about a video.
_CALLS_WITHOUT_VIDEO = ("list videos", "get webhook", "put webhook", "delete webhook")
# For these the HTTP status decides: a firewall in front of the API answers with HTML.
_KNOWN_BY_STATUS_ALONE = {RefusalKind.CREDENTIALS, RefusalKind.CONFLICT, RefusalKind.THROTTLED}


class CloudflareError(Exception):
    """A call that did not succeed. Its text never holds a credential or a body.

    ``ambiguous`` means that Cloudflare may have done what was asked all the same: after a create,
    list before creating again.
    """

    def __init__(self, call: str, text: str, *, ambiguous: bool) -> None:
        super().__init__(f"{call}: {text}")
        self.ambiguous = ambiguous


class NotReached(CloudflareError):
    """No HTTP answer came. It is ambiguous unless the request cannot have left."""


class Refused(CloudflareError):
    """Cloudflare's answer is no success.

    ``status`` is the HTTP status, ``kind`` what it means, ``errors`` what the envelope says, and
    ``retry_after`` the header's seconds if it is a usable number (not clamped). ``advice`` is added
    to the text.
    """

    def __init__(
        self,
        call: str,
        status: int,
        kind: RefusalKind,
        *,
        errors: tuple[ApiMessage, ...] = (),
        retry_after: float | None = None,
        defect: str | None = None,
        advice: str = "",
    ) -> None:
        details = defect or "; ".join(f"{error.code} {error.message}" for error in errors)
        text = f"Cloudflare answered {status}" + (f" ({details})" if details else "") + advice
        super().__init__(call, text, ambiguous=kind is RefusalKind.UNUSABLE)
        self.status = status
        self.kind = kind
        self.errors = errors
        self.retry_after = retry_after


class _Defect(Exception):
    """The answer cannot be used; the text says why."""


def _refusal_kind(status: int, errors: tuple[ApiMessage, ...], *, readable: bool) -> RefusalKind:
    """Decide what an unsuccessful answer means.

    ``readable``: the body was one of the API's envelopes. Without one, a 404 is the page of a proxy
    and says nothing about a video.
    """
    by_status = _KIND_BY_STATUS.get(status)
    if by_status in _KNOWN_BY_STATUS_ALONE:
        return by_status
    if not readable or not (200 <= status < 300 or 400 <= status < 500):
        return RefusalKind.UNUSABLE
    for error in errors:
        if error.code in _KIND_BY_CODE:
            return _KIND_BY_CODE[error.code]
    if any(_EXISTS.search(error.message) for error in errors):
        return RefusalKind.CONFLICT
    if by_status:
        return by_status
    return RefusalKind.REJECTED if status >= 400 else RefusalKind.UNUSABLE


def _is_about_access(call: str, kind: RefusalKind, errors: tuple[ApiMessage, ...]) -> bool:
    """Return True if the credentials or the account id can be the reason of a refusal."""
    if kind is RefusalKind.CREDENTIALS or any(error.code in (7000, 7003) for error in errors):
        return True
    return kind is RefusalKind.NOT_FOUND and call in _CALLS_WITHOUT_VIDEO


# The calls


class StreamClient:
    """The Stream API of one account. One client may be used by several threads at once.

    ``base_url`` is ``https://api.cloudflare.com/client/v4`` or a stand-in. ``authorization`` is
    called once for each call and returns the headers that authenticate. ``on_rate_limit`` is called
    with every usable ``Ratelimit`` header. ``credentials_from`` says in the text of a refusal where
    the credentials come from.

    Every call takes ``seconds``, its total limit: authorization, connecting, sending, and reading
    the whole answer. Nothing is repeated and no redirect is followed. A call raises `NotReached` or
    `Refused`. For an invalid identifier it raises ValueError before anything is sent.

    The API: https://developers.cloudflare.com/api/resources/stream/
    """

    MAX_BYTES = 1024 * 1024
    # A thousand videos of 2 to 3 KiB each, and room for long names.
    MAX_LISTING_BYTES = 16 * 1024 * 1024

    def __init__(
        self,
        account_id: str,
        *,
        base_url: str,
        authorization: Callable[[], Mapping[str, str]],
        pool: urllib3.PoolManager | None = None,
        on_rate_limit: Callable[[RateLimit], None] | None = None,
        credentials_from: str = "your secret",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account_url = f"{base_url.rstrip('/')}/accounts/{_checked(account_id, _ACCOUNT_ID)}"
        self._authorization = authorization
        self._pool = bounded_pool() if pool is None else pool
        self._on_rate_limit = on_rate_limit
        self._access_advice = (
            f": check that {credentials_from} holds credentials with the permission Stream: Edit"
            f" for the account {account_id}, and that this is the account of the videos"
        )
        self._monotonic = monotonic

    def list_downloads(self, uid: str, *, seconds: float) -> dict[str, DownloadState]:
        """Return all downloads that were created for a video, by type."""
        path = f"/stream/{_checked(uid)}/downloads"
        return self._call("GET", path, "list downloads", _downloads_or_none, seconds=seconds)

    def create_download(
        self, uid: str, download_type: DownloadType | None, *, seconds: float
    ) -> dict[str, DownloadState]:
        """Start a download, or return the present state of the one that exists.

        Without a type, Cloudflare makes the MP4. Both documented answers are read: one download
        alone, or an object with one download per type.
        """
        created = partial(_created, asked=download_type or DownloadType.DEFAULT)
        path = _downloads_path(uid, download_type)
        return self._call("POST", path, "create download", created, seconds=seconds)

    def delete_downloads(
        self, uid: str, download_type: DownloadType | None, *, seconds: float
    ) -> None:
        """Delete one download of a video: without a type, the MP4."""
        path = _downloads_path(uid, download_type)
        self._call("DELETE", path, "delete downloads", _anything, seconds=seconds)

    def list_videos(
        self, *, status: str = "ready", start: str | None = None, limit: int = 1000, seconds: float
    ) -> VideoPage:
        """Return up to ``limit`` videos (at most 1000) of that status, the oldest first.

        ``start`` is an RFC 3339 time: videos created before it are left out. There is no cursor,
        and sources disagree whether a video created exactly then is listed. So start the next page
        a little before the end of this one, and drop the videos seen already.
        """
        query = {"status": status, "asc": "true", "limit": str(limit)}
        if start is not None:
            query["start"] = start
        return self._call(
            "GET",
            f"/stream?{urlencode(query)}",
            "list videos",
            _video_page,
            seconds=seconds,
            max_bytes=self.MAX_LISTING_BYTES,
        )

    def get_video(self, uid: str, *, seconds: float) -> Video:
        """Return one video."""
        return self._call("GET", f"/stream/{_checked(uid)}", "get video", _video, seconds=seconds)

    def create_token(self, uid: str, *, expires_at: int, seconds: float) -> str:
        """Return a signed token that replaces a private video's uid in its download URLs.

        ``expires_at`` is in Unix seconds, at most 24 hours ahead. Cloudflare intends this call for
        fewer than 1,000 tokens a day.
        """
        body = {"exp": expires_at, "downloadable": True}
        path = f"/stream/{_checked(uid)}/token"
        return self._call("POST", path, "create token", _token, body=body, seconds=seconds)

    def get_webhook(self, *, seconds: float) -> WebhookSubscription | None:
        """Return the account's webhook subscription, None if there is none."""
        try:
            return self._call(
                "GET", "/stream/webhook", "get webhook", _subscription_or_none, seconds=seconds
            )
        except Refused as refusal:
            if refusal.kind is RefusalKind.NOT_FOUND:
                return None
            raise

    def put_webhook(self, url: str, *, seconds: float) -> WebhookSubscription:
        """Subscribe ``url`` in place of any other. A new URL gets a new secret."""
        body = {"notificationUrl": url}
        return self._call(
            "PUT", "/stream/webhook", "put webhook", _subscription, body=body, seconds=seconds
        )

    def _call(
        self,
        method: str,
        path: str,
        call: str,
        parse: Callable[[object], _Result],
        *,
        seconds: float,
        body: Mapping[str, object] | None = None,
        max_bytes: int | None = None,
    ) -> _Result:
        """Send one request, and read the ``result`` of its answer with ``parse``."""
        deadline = self._monotonic() + seconds
        headers = _checked_headers(self._authorization())
        # Reading the credentials may have taken some of the time.
        left = deadline - self._monotonic()
        response = self._send(call, method, path, headers, body, left)
        self._note_rate_limit(response.headers)
        defect: str | None = None
        errors: tuple[ApiMessage, ...] = ()
        try:
            content = self._read(response, deadline, max_bytes or self.MAX_BYTES)
            envelope = _envelope(response.headers, content)
            if 200 <= response.status < 300 and envelope["success"]:
                return parse(envelope.get("result"))
            errors = _errors(envelope, headers)
        except _Defect as found:
            defect = str(found)
        kind = _refusal_kind(response.status, errors, readable=defect is None)
        raise Refused(
            call,
            response.status,
            kind,
            errors=errors,
            retry_after=_retry_after(response.headers.get("retry-after")),
            defect=defect,
            advice=self._access_advice if _is_about_access(call, kind, errors) else "",
        )

    def _send(
        self,
        call: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Mapping[str, object] | None,
        seconds: float,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, and wait for the status and the headers of the answer."""
        if seconds <= 0:
            raise NotReached(call, "no time was left for it", ambiguous=False)
        sent = {"Accept": "application/json", "User-Agent": "stream-downloads", **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            return self._pool.request(
                method,
                self._account_url + path,
                headers=sent,
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(
                    connect=min(CONNECT_SECONDS, seconds),
                    read=min(READ_SECONDS, seconds),
                    total=seconds,
                ),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (ConnectTimeoutError, NewConnectionError, LocationValueError) as error:
            raise NotReached(call, _reason(error), ambiguous=False) from error
        except HTTPError as error:
            raise NotReached(call, _reason(error), ambiguous=True) from error

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float, max_bytes: int) -> bytes:
        """Return the whole body, if it fits into the time and into ``max_bytes``.

        A connection whose answer was read to its end is used again; any other is closed.
        """
        # One socket read at a time: `read` waits for as much as was asked for, however slowly it
        # comes. (urllib3 1.26 has no `read1`; there `bounded_pool` alone holds the deadline.)
        read = getattr(response, "read1", response.read)
        chunks: list[bytes] = []
        room = max_bytes
        try:
            while chunk := read(_READ_BYTES, decode_content=False):
                chunks.append(chunk)
                room -= len(chunk)
                if room < 0:
                    raise _Defect(f"the answer is longer than {max_bytes} bytes")
                if self._monotonic() >= deadline:
                    raise _Defect("the answer did not end in time")
        except HTTPError as error:
            response.close()
            raise _Defect(f"the answer broke off: {_reason(error)}") from error
        except _Defect:
            response.close()
            raise
        response.release_conn()
        return b"".join(chunks)

    def _note_rate_limit(self, headers: Mapping[str, str]) -> None:
        if self._on_rate_limit and (limit := _rate_limit(headers.get("ratelimit"))):
            self._on_rate_limit(limit)


# Into the request


def _checked(identifier: object, pattern: re.Pattern[str] = VIDEO_UID) -> str:
    """Return ``identifier`` if it may stand in a URL; ValueError otherwise."""
    if not isinstance(identifier, str) or not pattern.fullmatch(identifier):
        raise ValueError(f"not an identifier of Cloudflare's: {repr(identifier)[:40]}")
    return identifier


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return ``headers`` if they can be sent. An error of http.client would show the value."""
    for name, value in headers.items():
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the credential for {name} is empty, or not printable ASCII")
    return headers


def _downloads_path(uid: str, download_type: DownloadType | None) -> str:
    path = f"/stream/{_checked(uid)}/downloads"
    return path if download_type is None else f"{path}/{DownloadType(download_type)}"


# Out of the answer


def _envelope(headers: Mapping[str, str], content: bytes) -> Mapping[str, Any]:
    """Return the JSON object of an answer, with its ``success``."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise _Defect("the answer is not declared as JSON")
    try:
        envelope = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Defect("the answer is not JSON") from error
    if not isinstance(envelope, dict) or not isinstance(envelope.get("success"), bool):
        raise _Defect("the answer is not one of the API's envelopes")
    return envelope


def _errors(envelope: Mapping[str, Any], sent: Mapping[str, str]) -> tuple[ApiMessage, ...]:
    """Return what an envelope says went wrong: ``errors``, or ``messages`` where that is empty.

    A credential of the headers ``sent`` that Cloudflare quotes is left out.
    """
    entries = envelope.get("errors") or envelope.get("messages")
    if not isinstance(entries, list):
        return ()
    secrets = [value.rpartition(" ")[2] for value in sent.values()]
    return tuple(_message(entry, secrets) for entry in entries[:10] if isinstance(entry, dict))


def _message(entry: Mapping[str, Any], secrets: Sequence[str]) -> ApiMessage:
    code, text = entry.get("code"), _text(entry.get("message")) or ""
    for secret in secrets:
        text = text.replace(secret, "***")
    # DynamoDB stores no half of a surrogate pair.
    text = text[:_MAX_MESSAGE_CHARACTERS].encode(errors="replace").decode()
    return ApiMessage(code if isinstance(code, int) else 0, text)


def _retry_after(header: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header; None for a date or anything else."""
    if header is None or not _SECONDS.fullmatch(header.strip()):
        return None
    seconds = float(header)
    return seconds if math.isfinite(seconds) else None


def _rate_limit(header: str | None) -> RateLimit | None:
    """Return the tightest limit in a header like ``"default";r=50;t=30``; None if it has none."""
    limits = []
    for item in (header or "")[:1000].split(","):
        fields = dict(_RATE_LIMIT_ITEM.findall(item))
        if "r" in fields and "t" in fields:
            limits.append(RateLimit(int(fields["r"]), float(fields["t"])))
    return min(limits, key=lambda limit: limit.remaining, default=None)


def _reason(error: HTTPError) -> str:
    """Return what urllib3 says went wrong, with the cause that it wraps."""
    return f"{type(error).__name__}: {error.__cause__ or error}"


def _anything(result: object) -> None:
    """Accept any result, for calls of which only ``success`` matters."""


def _object(result: object) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise _Defect(f"its result is {_kind_of(result)}, not an object")
    return result


def _kind_of(value: object) -> str:
    return "null" if value is None else f"of the type {type(value).__name__}"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _percent(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return abs(value)  # DynamoDB returns -0.0 as 0


def _download(result: object) -> DownloadState:
    fields = _object(result)
    return DownloadState(
        status=_text(fields.get("status")) or "",
        percent_complete=_percent(fields.get("percentComplete")),
        url=_text(fields.get("url")),
    )


def _downloads(result: object) -> dict[str, DownloadState]:
    """Return one download per type; a type that is null was not created."""
    by_type = _object(result)
    return {name: _download(state) for name, state in by_type.items() if state is not None}


def _downloads_or_none(result: object) -> dict[str, DownloadState]:
    return {} if result is None else _downloads(result)


def _created(result: object, asked: DownloadType) -> dict[str, DownloadState]:
    """Read both shapes of the answer: flat in the older reference, keyed by type in the newer."""
    fields = _object(result)
    flat = not {"status", "percentComplete", "url"}.isdisjoint(fields)
    downloads = {str(asked): _download(fields)} if flat else _downloads(fields)
    if not downloads:
        raise _Defect("its result names no download")
    return downloads


def _video(result: object) -> Video:
    try:
        return parse_video(_object(result))
    except Unusable as error:
        raise _Defect(f"its result is no video: {error}") from error


def _video_page(result: object) -> VideoPage:
    if not isinstance(result, list):
        raise _Defect(f"its result is {_kind_of(result)}, not a list")
    videos = []
    for entry in result:
        with suppress(_Defect):  # one bad video hides no other
            videos.append(_video(entry))
    return VideoPage(videos, len(result))


def _token(result: object) -> str:
    token = _text(_object(result).get("token"))
    if token is None:
        raise _Defect("its result holds no token")
    return token


def _subscription(result: object) -> WebhookSubscription:
    fields = _object(result)
    url = _text(fields.get("notificationUrl")) or _text(fields.get("notification_url"))
    secret = _text(fields.get("secret"))
    if url is None or secret is None:
        raise _Defect("its result is a subscription without a URL or without a secret")
    return WebhookSubscription(url, secret, _text(fields.get("modified")))


def _subscription_or_none(result: object) -> WebhookSubscription | None:
    return _subscription(result) if result else None
