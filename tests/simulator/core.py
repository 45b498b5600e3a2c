"""Simulate Cloudflare Stream in memory: answer requests, by a clock that the test moves."""

from __future__ import annotations

import base64
import bisect
import hashlib
import hmac
import itertools
import json
import math
import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.simulator.faults import Fault, Faults, refused, spoiled
from tests.simulator.limits import RateLimiter
from tests.simulator.messages import Request, Response, failure, success
from tests.simulator.videos import CUSTOMER_HOST, FILE_HEAD, Download, Upload, Video
from tests.simulator.webhooks import Habit, Outbox, Webhook, punctual

API_PATH = "/client/v4"
UPLOAD_PATH = "/upload"


@dataclass
class Settings:
    """The account, and the behaviour that Cloudflare's documents leave open.

    ``answer_shape``: one download alone, or one per type, as the answer to a create.
    ``nothing_created``: the answer to a list without downloads, or to a delete without a create.
    ``repeated_create``: the present state, or a 409.
    ``inclusive_bounds``: whether a video created exactly at ``start`` or ``end`` is listed.
    """

    account_id: str = "0123456789abcdef0123456789abcdef"
    api_token: str = "simulated-token"
    api_email: str = "you@example.com"
    api_key: str = "simulated-key"
    answer_shape: Literal["keyed", "flat"] = "keyed"
    nothing_created: Literal["empty", "not found"] = "empty"
    repeated_create: Literal["state", "conflict"] = "state"
    inclusive_bounds: bool = True


class Call(NamedTuple):
    """One request as it came in. ``status`` is 0 if no answer was given."""

    at: float
    name: str
    video_uid: str | None
    download_type: str | None
    status: int
    fault: Fault | None


class _Route(NamedTuple):
    call: str
    account_id: str = ""
    video_uid: str | None = None
    download_type: str | None = None


class StreamSimulator:
    """One account's Stream. Safe to use from several threads.

    ``clock`` gives Unix seconds. ``settings``, ``faults``, ``limiter``, ``outbox``, ``habit`` (how
    webhooks go out unless an upload says otherwise) and ``sent_in`` (what happens to a video that
    is uploaded through the API) may be changed while it runs.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        settings: Settings | None = None,
        request_limit: int = 1200,
        seed: int = 0,
    ) -> None:
        self.clock = clock
        self.settings = settings or Settings()
        self.faults = Faults()
        self.limiter = RateLimiter(request_limit)
        self.outbox = Outbox(seed)
        self.habit: Habit = punctual
        self.sent_in = Upload(duration_seconds=2.0, encode_seconds=1.0, has_audio=False)
        self.calls: list[Call] = []
        self.videos: dict[str, Video] = {}
        self.downloads_made: dict[tuple[str, str], Download] = {}
        self._created: list[tuple[float, str]] = []
        self._chance = random.Random(seed)  # noqa: S311
        self._lock = threading.RLock()

    # What happens at Cloudflare without a request

    def upload(self, upload: Upload | None = None, /, **details: Any) -> str:
        """Upload a video, described as an `Upload` or by its fields; return its uid."""
        upload = upload or Upload(**details)
        with self._lock:
            uid = f"{self._chance.getrandbits(128):032x}"
            video = Video(uid, self.clock(), upload)
            self.videos[uid] = video
            bisect.insort(self._created, (video.created_at, uid))
            delays = self.habit() if upload.webhook_delays is None else upload.webhook_delays
            for delay in delays:
                self.outbox.add(uid, video.encoded_at + delay)
            return uid

    def drop_video(self, uid: str) -> None:
        """Delete a video and its downloads, as from the dashboard."""
        with self._lock:
            video = self.videos.pop(uid)
            self._created.remove((video.created_at, uid))

    def drop_download(self, uid: str, download_type: str) -> None:
        """Delete one download, as from the dashboard."""
        with self._lock:
            del self.videos[uid].downloads[download_type]

    def repeat_webhook(self, uid: str, delay: float = 0.0) -> None:
        """Send a video's webhook once more, ``delay`` seconds from now."""
        with self._lock:
            self.outbox.add(uid, self.clock() + delay)

    def others_send(self, requests: int) -> None:
        """Count requests that other clients, such as the dashboard, send as the same user."""
        with self._lock:
            self.limiter.take(self.clock(), requests)

    def throttle(self, seconds: float) -> None:
        """Answer every request with 429 for ``seconds``, as if over the limit; 0 ends this.

        Raises:
            ValueError: it is not a time from 0 to 3600 seconds.
        """
        if not 0 <= seconds <= 3600:
            raise ValueError("seconds has to be from 0 to 3600")
        with self._lock:
            self.limiter.blocked_until = self.clock() + seconds

    def due_webhooks(self) -> list[Webhook]:
        """Take out the webhooks to be sent now."""
        with self._lock:
            now = self.clock()

            def describe(uid: str) -> Mapping[str, object] | None:
                video = self.videos.get(uid)
                return video.described(now) if video else None

            return self.outbox.due(now, describe)

    @property
    def next_webhook_at(self) -> float | None:
        """Return the time of the next webhook; None if none waits."""
        with self._lock:
            return self.outbox.next_at

    # What an observer sees

    def ready_at(self, uid: str, download_type: str) -> float | None:
        """Return the time when the latest download of that type becomes ready; None if never."""
        with self._lock:
            download = self.downloads_made.get((uid, download_type))
            return download.ends_at if download and not download.fails else None

    def counts(self) -> Counter[str]:
        """Return how many requests of each call came in."""
        with self._lock:
            return Counter(call.name for call in self.calls)

    def most_requests_in(self, seconds: float = 300.0) -> int:
        """Return the most requests that came in within any window of that length."""
        with self._lock:
            window: deque[float] = deque()
            most = 0
            for call in self.calls:
                window.append(call.at)
                while window[0] <= call.at - seconds:
                    window.popleft()
                most = max(most, len(window))
            return most

    def fetch(self, url: str) -> int:
        """Return the status that downloading ``url`` now would give: 200, 401, 404."""
        with self._lock:
            now, parts = self.clock(), urlsplit(url)
            matched = re.fullmatch(r"/([^/]+)/downloads/(default\.mp4|audio\.m4a)", parts.path)
            if parts.netloc != CUSTOMER_HOST or not matched:
                return 404
            subject, file = matched.groups()
            signed = subject not in self.videos
            video = self.videos.get(_video_of_token(subject, now) or "" if signed else subject)
            if not video or (video.upload.private and not signed):
                return 401
            download = video.downloads.get(file.partition(".")[0])
            return 200 if download and download.status(now) == "ready" else 404

    # The API

    def handle(self, request: Request) -> Response:
        """Answer one request: to the API, or to one of the hosts that its answers name."""
        if request.headers.get("host") == CUSTOMER_HOST:
            return self._file(request)
        with self._lock:
            now = self.clock()
            route = _route(request)
            fault = self.faults.next(route.call)
            response = self._answer(request, route, now, fault)
            self.calls.append(
                Call(now, route.call, route.video_uid, route.download_type, response.status, fault)
            )
            return response

    def _answer(self, request: Request, route: _Route, now: float, fault: Fault | None) -> Response:
        response = refused(fault) if fault else None
        if response is None or response.status:
            stay_away = self.limiter.take(now)
            if stay_away is not None:
                response, fault = failure(429, 10100, "Rate limited"), None
                response.headers["retry-after"] = str(math.ceil(stay_away))
        if response is None:
            response = self._done(request, route, now)
            if fault:
                response = spoiled(fault, response)
        response.headers |= self.limiter.headers(now)
        return response

    def _permitted(self, request: Request, route: _Route) -> Response | None:
        """Return the refusal, if the credentials or the account are wrong."""
        if route.call == "upload":  # the URL alone authorizes it
            return None
        headers, settings = request.headers, self.settings
        by_token = headers.get("authorization") == f"Bearer {settings.api_token}"
        by_key = (headers.get("x-auth-email"), headers.get("x-auth-key")) == (
            settings.api_email,
            settings.api_key,
        )
        if not by_token if "authorization" in headers else not by_key:
            return failure(401, 10000, "Authentication error")
        if route.call != "unknown" and route.account_id != settings.account_id:
            return failure(403, 10000, "Authentication error")
        return None

    def _done(self, request: Request, route: _Route, now: float) -> Response:
        """Carry out a request; return the answer."""
        response = self._permitted(request, route)
        if response:
            return response
        match route.call:
            case "list videos":
                return self._list_videos(request.query, now)
            case "get webhook" | "delete webhook" | "put webhook":
                return self._webhook(request, now)
            case "reserve upload":
                return self._reserve_upload(request)
            case "unknown":
                text = (
                    f"Could not route to {request.path}, perhaps your object identifier is invalid?"
                )
                return failure(400, 7003, text, (7000, "No route for that URI"))
        video = self.videos.get(route.video_uid or "")
        return self._done_with(video, request, route, now) if video else _not_found()

    def _done_with(self, video: Video, request: Request, route: _Route, now: float) -> Response:
        match route.call:
            case "create download":
                response = self._create_download(video, route.download_type or "default", now)
            case "list downloads":
                response = self._list_downloads(video, now)
            case "delete downloads":
                response = self._delete_download(video, route.download_type or "default")
            case "create token":
                response = self._create_token(video, request.body, now)
            case "upload":
                response = self._take_clip(video, request.body, now)
            case "delete video":
                self.drop_video(video.uid)
                response = success("")
            case _:
                response = success(video.listed(now))
        return response

    def _list_videos(self, query: Mapping[str, str], now: float) -> Response:
        try:
            start = _time(query.get("start") or query.get("after"))
            end = _time(query.get("end") or query.get("before"))
            limit = int(query.get("limit", "1000"))
        except ValueError:
            return failure(400, 10005, "Bad Request: not a time or not a number")
        if not 1 <= limit <= 1000:
            return failure(400, 10005, "Bad Request: limit must be between 1 and 1000")
        inclusive = self.settings.inclusive_bounds
        before_start, after_end = ("", "~") if inclusive else ("~", "")
        low = 0 if start is None else bisect.bisect_left(self._created, (start, before_start))
        high = None if end is None else bisect.bisect_left(self._created, (end, after_end))
        created = self._created[low:high]
        if query.get("asc") != "true":
            created.reverse()
        videos = (self.videos[uid] for _, uid in created)
        wanted = (
            video
            for video in videos
            if query.get("status") in (None, video.state(now))
            and query.get("search", "") in video.upload.name
        )
        return success([video.listed(now) for video in itertools.islice(wanted, limit)])

    def _list_downloads(self, video: Video, now: float) -> Response:
        if not video.downloads and self.settings.nothing_created == "not found":
            return _not_found()
        return success(_described(video, now))

    def _create_download(self, video: Video, kind: str, now: float) -> Response:
        if kind in video.downloads and self.settings.repeated_create == "conflict":
            return failure(409, 10005, "The download exists already")
        if reason := video.why_no_download(kind, now):
            return failure(400, 10005, f"Bad Request: {reason}")
        if kind not in video.downloads:
            self.downloads_made[video.uid, kind] = video.create(kind, now)
        if self.settings.answer_shape == "flat":
            return success(video.downloads[kind].described(now))
        return success(_described(video, now))

    def _delete_download(self, video: Video, kind: str) -> Response:
        if kind not in video.downloads and self.settings.nothing_created == "not found":
            return _not_found()
        video.downloads.pop(kind, None)
        return success("ok")

    def _create_token(self, video: Video, body: bytes, now: float) -> Response:
        wanted = _json_object(body or b"{}")
        if wanted is None:
            return failure(400, 10004, "Decoding Error: the body is not a JSON object")
        expires_at = wanted.get("exp", int(now) + 3600)
        if not isinstance(expires_at, int) or not now < expires_at <= now + 86400:
            return failure(400, 10005, "Bad Request: exp must be within 24 hours")
        downloadable = wanted.get("downloadable") is True
        return success(
            {"token": _token({"sub": video.uid, "exp": expires_at, "downloadable": downloadable})}
        )

    def _reserve_upload(self, request: Request) -> Response:
        wanted = _json_object(request.body)
        if wanted is None or not isinstance(wanted.get("maxDurationSeconds"), int):
            return failure(400, 10005, "Bad Request: maxDurationSeconds is missing")
        meta = wanted.get("meta", {})
        details = {"name": meta.get("name", ""), "downloads": meta.get("downloads")}
        upload = replace(self.sent_in, **details, encode_seconds=math.inf, webhook_delays=())
        uid, host = self.upload(upload), request.headers.get("host", "simulator")
        return success({"uid": uid, "uploadURL": f"http://{host}{UPLOAD_PATH}/{uid}"})

    def _take_clip(self, video: Video, body: bytes, now: float) -> Response:
        if video.state(now) != "pendingupload" or b"ftyp" not in body:
            return failure(400, 10005, "Bad Request: no upload is expected, or it is no MP4")
        waited = now - video.created_at
        seconds = waited + self.sent_in.encode_seconds
        video.upload = replace(video.upload, encode_seconds=seconds)
        for delay in self.habit():
            self.outbox.add(video.uid, video.encoded_at + delay)
        return success(None)

    def _file(self, request: Request) -> Response:
        """Return the head of a download's file."""
        status = self.fetch(f"https://{CUSTOMER_HOST}{request.path}")
        body = FILE_HEAD if status == 200 else b""
        return Response(status, body, {"content-type": "video/mp4"})

    def _webhook(self, request: Request, now: float) -> Response:
        if request.method == "PUT":
            return self._put_webhook(request.body, now)
        subscription = self.outbox.subscription
        if not subscription:
            return _not_found()
        if request.method == "GET":
            return success(subscription.described())
        self.outbox.subscription = None
        return success("ok")

    def _put_webhook(self, body: bytes, now: float) -> Response:
        wanted = _json_object(body)
        if wanted is None:
            return failure(400, 10004, "Decoding Error: the body is not a JSON object")
        url = wanted.get("notificationUrl") or wanted.get("notification_url")
        if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
            return failure(400, 10005, "Bad Request: notificationUrl is not a URL")
        return success(self.outbox.subscribe(url, now).described())


_ACCOUNT_PATH = re.compile(rf"{API_PATH}/accounts/([0-9a-f]{{1,32}})/stream(?:/(.*))?")
_ROUTES = [
    (re.compile(pattern), call)
    for pattern, call in (
        ("GET ", "list videos"),
        ("GET webhook", "get webhook"),
        ("PUT webhook", "put webhook"),
        ("DELETE webhook", "delete webhook"),
        ("POST direct_upload", "reserve upload"),
        (r"GET (\w{1,32})/downloads", "list downloads"),
        (r"POST (\w{1,32})/downloads(?:/(default|audio))?", "create download"),
        (r"DELETE (\w{1,32})/downloads(?:/(default|audio))?", "delete downloads"),
        (r"GET (\w{1,32})", "get video"),
        (r"DELETE (\w{1,32})", "delete video"),
        (r"POST (\w{1,32})/token", "create token"),
    )
]


def _route(request: Request) -> _Route:
    """Return which call a request is."""
    if request.method == "POST" and request.path.startswith(UPLOAD_PATH):
        return _Route("upload", video_uid=request.path.rpartition("/")[2])
    if matched := _ACCOUNT_PATH.fullmatch(request.path):
        account_id, path = matched.groups("")
        wanted = f"{request.method} {path.rstrip('/')}"
        for pattern, call in _ROUTES:
            if found := pattern.fullmatch(wanted):
                return _Route(call, account_id, *found.groups())
    return _Route("unknown")


def _described(video: Video, now: float) -> dict[str, object]:
    return {kind: download.described(now) for kind, download in video.downloads.items()}


def _not_found() -> Response:
    return failure(404, 10003, "Not Found: The requested resource was not found")


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


# Only this simulator reads the contents of a token.


def _token(claims: Mapping[str, object]) -> str:
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
    return f"{text}.{_token_signature(text)}"


def _video_of_token(token: str, now: float) -> str | None:
    """Return the uid that a valid token names."""
    text, _, signature = token.partition(".")
    if signature != _token_signature(text):
        return None
    claims = json.loads(base64.urlsafe_b64decode(text))
    return claims["sub"] if claims["downloadable"] and claims["exp"] > now else None


def _token_signature(text: str) -> str:
    return hmac.new(b"signing key", text.encode(), hashlib.sha256).hexdigest()


def parse_query(query: str) -> dict[str, str]:
    """Return a query string, the first value of each name."""
    return {name: values[0] for name, values in parse_qs(query).items()}
