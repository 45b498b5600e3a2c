"""Sends single requests to Cloudflare's Stream API, and returns each answer unchanged.

They do not count in the stack's request limit: a smoke test sends few.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.filepost import encode_multipart_formdata

from tests.smoke.failure import Failed

CLOUDFLARE: Final = "api.cloudflare.com"
SECONDS: Final = 30.0
# Of the file behind a download's URL.
HEAD_BYTES: Final = 1024
HEADERS: Final = ("content-type", "ratelimit", "ratelimit-policy", "retry-after")


class NoAnswer(Failed):
    """No HTTP answer came: Cloudflare may have carried out the request all the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, unchanged.

    Attributes:
        status: the HTTP status.
        headers: those of `HEADERS` that it has.
        body: the JSON of the body, or None if it is none.
    """

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def ok(self) -> bool:
        """Return true for a success."""
        return 200 <= self.status < 300

    @property
    def result(self) -> Any:
        """Return the ``result`` of the body, None without one."""
        return self.body.get("result") if isinstance(self.body, dict) else None


class Cloudflare:
    """The Stream API of one account."""

    def __init__(
        self,
        base_url: str,
        account_id: str,
        authorization: Mapping[str, str],
        pool: urllib3.PoolManager | None = None,
    ) -> None:
        """Take ``CloudflareApiBaseUrl``, the account, and the headers that authorize."""
        self._base_url = base_url
        self._url = f"{base_url}/accounts/{account_id}/stream"
        self._authorization = dict(authorization)
        self._pool = pool or urllib3.PoolManager()
        self.sent = 0

    def call(self, method: str, path: str = "", body: Mapping[str, Any] | None = None) -> Answer:
        """Send one request below ``/accounts/…/stream``.

        Raises:
            NoAnswer: none came.
        """
        headers = {**self._authorization, "Accept": "application/json"}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        return self._send(method, self._url + path, headers, content)

    def named(self, name: str) -> list[str]:
        """Return the uids of the videos with exactly that name."""
        answer = self.call("GET", "?" + urlencode({"search": name}))
        videos = answer.result if isinstance(answer.result, list) else []
        return [
            video["uid"]
            for video in videos
            if isinstance(video, dict) and (video.get("meta") or {}).get("name") == name
        ]

    def upload(self, url: str, clip: bytes) -> Answer:
        """Send a clip to the address that Cloudflare gave for it, without the credentials."""
        field = ("clip.mp4", clip, "video/mp4")
        content, content_type = encode_multipart_formdata({"file": field})
        return self._send("POST", url, {"Content-Type": content_type}, content)

    def head_of(self, url: str) -> tuple[int, bytes]:
        """Return the status and the first bytes of a download.

        If ``CloudflareApiBaseUrl`` is a stand-in, it also serves the downloads.
        """
        headers = {"Range": f"bytes=0-{HEAD_BYTES - 1}"}
        base, parts = urlsplit(self._base_url), urlsplit(url)
        if base.hostname != CLOUDFLARE:
            headers["Host"] = parts.netloc
            url = f"{base.scheme}://{base.netloc}{parts.path}"
        response = self._request("GET", url, headers, None)
        try:
            return response.status, response.read(HEAD_BYTES)
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswer(f"The download broke off: {type(error).__name__}") from None
        finally:
            response.close()

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Answer:
        response = self._request(method, url, headers, content)
        self.sent += 1
        try:
            text = response.read()
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswer(f"Cloudflare's answer broke off: {type(error).__name__}") from None
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        kept = {name: response.headers[name] for name in HEADERS if name in response.headers}
        return Answer(response.status, kept, body)

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(
                method,
                url,
                body=content,
                headers=headers,
                timeout=urllib3.Timeout(total=SECONDS),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            reason = type(error.__cause__ or error).__name__
            raise NoAnswer(f"{urlsplit(url).hostname} gave no answer: {reason}") from None
