"""Test the Stream client: its requests, and its results of every kind of answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import urllib3

from stream_downloads.adapters import http
from stream_downloads.adapters.stream_api import (
    ApiMessage,
    DownloadState,
    NotReached,
    RefusalKind,
    Refused,
    StreamClient,
    WebhookSubscription,
)
from stream_downloads.domain.request_budget import RateLimit
from stream_downloads.domain.video import VideoPage, parse_webhook
from tests.support.events import VIDEO_UID, video_event
from tests.support.rows import AUDIO, DEFAULT

ACCOUNT = "0123456789abcdef0123456789abcdef"
UID = "5d5bc37ffcf54c9b82e996823bffbb81"
TOKEN = "a-token-that-must-not-be-shown"
URL = f"https://customer-m033z5x00ks6nunl.cloudflarestream.com/{UID}/downloads/default.mp4"
READY = {"status": "ready", "url": URL, "percentComplete": 100.0}
BASE_URL = "https://api.cloudflare.com/client/v4"
STREAM = f"{BASE_URL}/accounts/{ACCOUNT}/stream"


class OneAnswer(urllib3.PoolManager):
    """A pool that answers every request alike, and remembers what was asked."""

    def __init__(
        self,
        answer: object,
        *,
        status: int = 200,
        content_type: str = "application/json; charset=utf-8",
        **headers: str,
    ) -> None:
        super().__init__()
        self.content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.headers["content-type"] = content_type
        self.asked: list[dict[str, Any]] = []

    def request(self, method: str, url: str, **options: Any) -> Any:  # type: ignore[override]
        """Answer every request alike."""
        self.asked.append({"method": method, "url": url, **options})
        return urllib3.HTTPResponse(
            body=io.BytesIO(self.content),
            headers=self.headers,
            status=self.status,
            preload_content=False,
        )


def success(result: object) -> dict[str, object]:
    return {"result": result, "success": True, "errors": [], "messages": []}


def failure(*errors: object, **envelope: object) -> dict[str, object]:
    return {"result": None, "success": False, "errors": list(errors), "messages": []} | envelope


def client(pool: urllib3.PoolManager, **options: Any) -> StreamClient:
    options.setdefault("base_url", BASE_URL)
    options.setdefault("authorization", lambda: {"Authorization": f"Bearer {TOKEN}"})
    return StreamClient(ACCOUNT, pool=pool, **options)


def asked(pool: OneAnswer) -> str:
    """Return the one request that was sent: its method, its URL, and its body if it has one."""
    (request,) = pool.asked
    body = "" if request["body"] is None else f" {request['body'].decode()}"
    return f"{request['method']} {request['url'].removeprefix(STREAM)}{body}"


def listed(result: object) -> dict[str, DownloadState]:
    """Return what a list with this result says."""
    return client(OneAnswer(success(result))).list_downloads(UID, seconds=5)


def refusal(pool: OneAnswer) -> Refused:
    """Return the error of a create that meets this answer."""
    with pytest.raises(Refused) as caught:
        client(pool).create_download(UID, None, seconds=5)
    return caught.value


# Each call, of the video with that uid or of the account.
OF_A_VIDEO: dict[str, Callable[[StreamClient, Any], object]] = {
    "list downloads": lambda api, uid: api.list_downloads(uid, seconds=5),
    "create download": lambda api, uid: api.create_download(uid, None, seconds=5),
    "delete downloads": lambda api, uid: api.delete_downloads(uid, None, seconds=5),
    "get video": lambda api, uid: api.get_video(uid, seconds=5),
    "create token": lambda api, uid: api.create_token(uid, expires_at=1, seconds=5),
}
CALLS: dict[str, Callable[[StreamClient, Any], object]] = OF_A_VIDEO | {
    "list videos": lambda api, _: api.list_videos(seconds=5),
    "put webhook": lambda api, _: api.put_webhook("https://a.example", seconds=5),
}


# What is sent


# The call that sends each request; a path is relative to `…/accounts/ID/stream`.
SENT: dict[str, Callable[[StreamClient], object]] = {
    f"GET /{UID}/downloads": lambda api: api.list_downloads(UID, seconds=5),
    f"POST /{UID}/downloads": lambda api: api.create_download(UID, None, seconds=5),
    f"POST /{UID}/downloads/default": lambda api: api.create_download(UID, DEFAULT, seconds=5),
    f"POST /{UID}/downloads/audio": lambda api: api.create_download(UID, AUDIO, seconds=5),
    f"DELETE /{UID}/downloads": lambda api: api.delete_downloads(UID, None, seconds=5),
    f"DELETE /{UID}/downloads/default": lambda api: api.delete_downloads(UID, DEFAULT, seconds=5),
    f"DELETE /{UID}/downloads/audio": lambda api: api.delete_downloads(UID, AUDIO, seconds=5),
    f"GET /{UID}": lambda api: api.get_video(UID, seconds=5),
    "GET ?status=ready&asc=true&limit=1000": lambda api: api.list_videos(seconds=5),
    "GET ?status=ready&asc=true&limit=1": lambda api: api.list_videos(limit=1, seconds=5),
    "GET ?status=ready&asc=true&limit=1000&start=2024-01-01T00%3A00%3A00%2B00%3A00": (
        lambda api: api.list_videos(start="2024-01-01T00:00:00+00:00", seconds=5)
    ),
    f'POST /{UID}/token {{"exp": 17, "downloadable": true}}': (
        lambda api: api.create_token(UID, expires_at=17, seconds=5)
    ),
    'PUT /webhook {"notificationUrl": "https://a.example/"}': (
        lambda api: api.put_webhook("https://a.example/", seconds=5)
    ),
    "GET /webhook": lambda api: api.get_webhook(seconds=5),
}


@pytest.mark.parametrize("request_sent", SENT)
def test_each_call_sends_one_request(request_sent: str) -> None:
    pool = OneAnswer(success({}))
    with suppress(Refused):  # the answer does not fit every call
        SENT[request_sent](client(pool))
    assert asked(pool) == request_sent


def test_a_token_and_a_subscription_are_returned() -> None:
    api = client(OneAnswer(success({"token": "eyJ"})))
    assert api.create_token(UID, expires_at=17, seconds=5) == "eyJ"
    said = {"notificationUrl": "https://a.example/", "secret": "s", "modified": "2024-01-01"}
    subscription = client(OneAnswer(success(said))).put_webhook("https://a.example/", seconds=5)
    assert subscription == WebhookSubscription("https://a.example/", "s", "2024-01-01")
    said = {"notification_url": "https://a.example/", "secret": "s"}
    subscribed = client(OneAnswer(success(said))).get_webhook(seconds=5)
    assert subscribed == WebhookSubscription("https://a.example/", "s", None)


def test_every_request_states_its_limits_and_follows_and_repeats_nothing() -> None:
    pool = OneAnswer(success({}))
    client(pool).list_downloads(UID, seconds=5)
    (request,) = pool.asked
    assert request["retries"] is False
    assert request["redirect"] is False
    assert request["preload_content"] is False
    limits = request["timeout"]
    assert limits.connect_timeout == http.CONNECT_SECONDS
    assert limits.total == pytest.approx(5, abs=0.1)


def test_no_limit_is_longer_than_the_whole_call() -> None:
    pool = OneAnswer(success({}))
    client(pool).list_downloads(UID, seconds=0.5)
    limits = pool.asked[0]["timeout"]
    assert limits.connect_timeout == limits.total <= 0.5


@pytest.mark.parametrize(("takes", "left"), [(3.0, 2.0), (5.0, None)])
def test_what_authorization_takes_is_taken_from_the_call(takes: float, left: float | None) -> None:
    now = [0.0]

    def authorization() -> dict[str, str]:
        now[0] += takes
        return {"Authorization": f"Bearer {TOKEN}"}

    pool = OneAnswer(success({}))
    api = client(pool, authorization=authorization, monotonic=lambda: now[0])
    if left is None:
        with pytest.raises(NotReached, match="no time was left"):
            api.list_downloads(UID, seconds=5)
        assert pool.asked == []
    else:
        api.list_downloads(UID, seconds=5)
        assert pool.asked[0]["timeout"].total == left


def test_the_headers_carry_a_token_or_an_email_and_a_key() -> None:
    pool = OneAnswer(success({}))
    client(pool).list_downloads(UID, seconds=5)
    assert pool.asked[0]["headers"]["Authorization"] == f"Bearer {TOKEN}"
    pool = OneAnswer(success({}))
    pair = {"X-Auth-Email": "you@example.com", "X-Auth-Key": "key"}
    client(pool, authorization=lambda: pair).list_downloads(UID, seconds=5)
    assert pair.items() <= pool.asked[0]["headers"].items()


def test_another_address_can_stand_in_for_the_api() -> None:
    pool = OneAnswer(success({}))
    client(pool, base_url="http://127.0.0.1:8080/client/v4/").list_downloads(UID, seconds=5)
    base = f"http://127.0.0.1:8080/client/v4/accounts/{ACCOUNT}"
    assert asked(pool) == f"GET {base}/stream/{UID}/downloads"


# What is never sent


INVALID_UIDS = ["", "../x", "%2e", UID[:-1], UID + "0", UID.upper(), f"{UID}\n", "\uff15" * 32]


@pytest.mark.parametrize("uid", [*INVALID_UIDS, None, 5, b"a" * 32])
def test_what_is_no_uid_never_reaches_a_url(uid: Any) -> None:
    pool = OneAnswer(success({}))
    for call in OF_A_VIDEO.values():
        with pytest.raises(ValueError, match="not an identifier"):
            call(client(pool), uid)
    assert pool.asked == []


def test_a_long_identifier_is_not_repeated_in_full() -> None:
    with pytest.raises(ValueError, match="not an identifier") as caught:
        client(OneAnswer({})).get_video("x" * 5000, seconds=5)
    assert len(str(caught.value)) < 100


def test_an_unknown_download_type_never_reaches_a_url() -> None:
    pool = OneAnswer(success({}))
    with pytest.raises(ValueError, match="subtitles"):
        client(pool).create_download(UID, "subtitles", seconds=5)  # type: ignore[arg-type]
    assert pool.asked == []


def test_an_account_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="not an identifier"):
        StreamClient("../zones", base_url=BASE_URL, authorization=dict)


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}\n", f"Bearer {TOKEN}€", "", " ", "Bearer "])
def test_a_credential_that_no_header_can_carry_is_refused_without_showing_it(value: str) -> None:
    pool = OneAnswer(success({}))
    api = client(pool, authorization=lambda: {"Authorization": value})
    with pytest.raises(ValueError, match="credential for Authorization") as caught:
        api.list_downloads(UID, seconds=5)
    assert TOKEN not in repr(caught.value)
    assert pool.asked == []


@pytest.mark.parametrize("seconds", [0, -1.5])
def test_without_time_nothing_is_sent(seconds: float) -> None:
    pool = OneAnswer(success({}))
    with pytest.raises(NotReached) as caught:
        client(pool).create_download(UID, None, seconds=seconds)
    assert not caught.value.ambiguous
    assert pool.asked == []


# What is made of a success


def test_both_shapes_of_the_create_answer_are_understood() -> None:
    state = DownloadState("inprogress", 12.5, URL)
    said = {"status": "inprogress", "percentComplete": 12.5, "url": URL}
    keyed = client(OneAnswer(success({"audio": said, "default": None})))
    assert keyed.create_download(UID, AUDIO, seconds=5) == {"audio": state}
    flat = client(OneAnswer(success(said)))
    assert flat.create_download(UID, AUDIO, seconds=5) == {"audio": state}
    assert flat.create_download(UID, None, seconds=5) == {"default": state}


@pytest.mark.parametrize("said", [{"status": "inprogress"}, {"percentComplete": 3}, {"url": URL}])
def test_each_part_of_a_flat_answer_is_optional(said: dict[str, object]) -> None:
    created = client(OneAnswer(success(said))).create_download(UID, None, seconds=5)
    assert created.keys() == {"default"}


@pytest.mark.parametrize("result", [{}, None])
def test_a_video_without_downloads_has_an_empty_list(result: object) -> None:
    assert listed(result) == {}


def test_an_answer_without_messages_is_understood() -> None:
    answer = {"success": True, "errors": None, "messages": None, "result": {"default": READY}}
    assert client(OneAnswer(answer)).list_downloads(UID, seconds=5).keys() == {"default"}


INVALID_PERCENTAGES = [
    None,
    True,
    "39.000000",
    100.5,
    -1,
    float("nan"),
    float("inf"),
    10**400,
    [50],
]


@pytest.mark.parametrize(
    ("said", "understood"),
    [(0, 0), (100, 100), (39.5, 39.5), *((said, None) for said in INVALID_PERCENTAGES)],
)
def test_a_percentage_is_a_number_from_0_to_100(said: object, understood: float | None) -> None:
    found = listed({"default": {"status": "inprogress", "percentComplete": said}})
    assert found == {"default": DownloadState("inprogress", understood, None)}


def test_a_percentage_of_minus_zero_is_zero() -> None:
    found = listed({"default": {"status": "inprogress", "percentComplete": -0.0}})
    assert str(found["default"].percent_complete) == "0.0"


@pytest.mark.parametrize(
    ("said", "understood"), [("paused", "paused"), (None, ""), (5, ""), ({}, "")]
)
def test_a_status_is_any_text(said: object, understood: str) -> None:
    found = listed({"default": {"status": said, "url": 7}})
    assert found == {"default": DownloadState(understood, None, None)}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"creator": "", "meta": {"name": ""}},
        {"creator": "x" * 5000, "meta": None, "liveInput": "abc"},
        {"creator": "\ud800", "requireSignedURLs": "yes"},
        *({"duration": said} for said in (5.1234567, 0, -1, 1e-9, 1e9, "5", True, float("nan"))),
        {"status": {"state": "error", "errorReasonCode": "ERR", "errorReasonText": "No."}},
        {"status": {"state": "error", "errReasonCode": "ERR", "errReasonText": "No."}},
        {"status": {"state": "ready", "errorReasonCode": "ERR"}},
        {"created": None, "readyToStreamAt": "2022-06-30T17:53:21Z"},
    ],
    ids=repr,
)
def test_a_webhook_and_the_api_say_the_same_of_a_video(fields: dict[str, Any]) -> None:
    event = video_event(**fields)
    video = parse_webhook(json.dumps(event).encode())
    assert client(OneAnswer(success(event))).get_video(VIDEO_UID, seconds=5) == video
    page = client(OneAnswer(success([event]))).list_videos(seconds=5)
    assert page == VideoPage([video], 1)


def test_a_list_of_a_thousand_videos_is_read_whole() -> None:
    videos = [video_event(meta={"name": "n" * 2500})] * 1000
    assert len(client(OneAnswer(success(videos))).list_videos(seconds=5).videos) == 1000


@pytest.mark.parametrize("bad", [None, "", {}, {"uid": "../x"}, {"uid": 1}], ids=repr)
def test_a_bad_video_of_a_list_hides_no_other(bad: object) -> None:
    page = client(OneAnswer(success([bad, video_event(), bad]))).list_videos(seconds=5)
    assert [video.uid for video in page.videos] == [VIDEO_UID]
    assert page.listed == 3


@pytest.mark.parametrize(
    "answer", [OneAnswer(success(None)), OneAnswer(failure({"code": 10003}), status=404)]
)
def test_no_subscription_is_none(answer: OneAnswer) -> None:
    assert client(answer).get_webhook(seconds=5) is None


def test_a_subscription_that_cannot_be_read_is_not_taken_for_none() -> None:
    with pytest.raises(Refused) as caught:
        client(OneAnswer(failure({"code": 10000}), status=401)).get_webhook(seconds=5)
    assert caught.value.kind is RefusalKind.CREDENTIALS


def test_the_secret_of_a_subscription_is_not_shown() -> None:
    assert "hush" not in repr(WebhookSubscription("https://a.example/", "hush", None))


# What is made of a refusal


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (401, 10000, "Authentication error", RefusalKind.CREDENTIALS),
        (403, 10000, "Authentication error", RefusalKind.CREDENTIALS),
        (403, 10005, "", RefusalKind.CREDENTIALS),
        (400, 6003, "Invalid request headers", RefusalKind.CREDENTIALS),
        (400, 9106, "Missing headers", RefusalKind.CREDENTIALS),
        (404, 10003, "Not Found", RefusalKind.NOT_FOUND),
        (404, 0, "", RefusalKind.NOT_FOUND),
        (400, 10003, "Not Found", RefusalKind.NOT_FOUND),
        (404, 7003, "Could not route to /x", RefusalKind.REJECTED),
        (400, 7000, "No route for that URI", RefusalKind.REJECTED),
        (409, 10005, "Conflict", RefusalKind.CONFLICT),
        (400, 10011, "The download already exists", RefusalKind.CONFLICT),
        (400, 10011, "Download exists", RefusalKind.CONFLICT),
        (400, 10011, "The video no longer exists", RefusalKind.REJECTED),
        (400, 10005, "Bad Request: not ready", RefusalKind.REJECTED),
        (400, 10004, "Decoding Error", RefusalKind.REJECTED),
        (422, 1, "", RefusalKind.REJECTED),
        (408, 1, "Request Timeout", RefusalKind.UNUSABLE),
        (429, 10100, "Slow down", RefusalKind.THROTTLED),
        (429, 10000, "", RefusalKind.THROTTLED),
        (200, 10005, "Bad Request", RefusalKind.REJECTED),
        (200, 10003, "Not Found", RefusalKind.NOT_FOUND),
        (200, 0, "Something went wrong", RefusalKind.UNUSABLE),
        (302, 10005, "", RefusalKind.UNUSABLE),
        (500, 10003, "", RefusalKind.UNUSABLE),
        (503, 10000, "", RefusalKind.UNUSABLE),
        (520, 1, "", RefusalKind.UNUSABLE),
    ],
)
def test_a_refusal_means_what_its_status_and_code_say(
    status: int, code: int, message: str, kind: RefusalKind
) -> None:
    error = refusal(OneAnswer(failure({"code": code, "message": message}), status=status))
    assert error.status == status
    assert error.kind == kind
    assert error.ambiguous is (kind is RefusalKind.UNUSABLE)


@pytest.mark.parametrize(
    ("status", "code", "call", "helps"),
    [
        (401, 10000, "list downloads", True),
        (403, 9109, "list downloads", True),
        (400, 7003, "list downloads", True),
        (404, 7000, "list videos", True),
        (404, 10003, "put webhook", True),
        (404, 10003, "list downloads", False),
        (400, 10005, "list videos", False),
    ],
)
def test_a_refusal_of_the_credentials_or_the_account_says_what_to_check(
    *, status: int, code: int, call: str, helps: bool
) -> None:
    pool = OneAnswer(failure({"code": code, "message": "no"}), status=status)
    with pytest.raises(Refused) as refused:
        CALLS[call](client(pool, credentials_from="the secret arn:aws:example"), UID)
    said = str(refused.value)
    for part in ("secret arn:aws:example", "permission Stream: Edit", f"account {ACCOUNT}"):
        assert (part in said) is helps


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, RefusalKind.UNUSABLE) for status in (200, 307, 400, 404, 502)),
        *((status, RefusalKind.CREDENTIALS) for status in (401, 403)),
        (409, RefusalKind.CONFLICT),
        (429, RefusalKind.THROTTLED),
    ],
)
def test_a_page_of_html_says_nothing_about_a_video(status: int, kind: RefusalKind) -> None:
    error = refusal(OneAnswer(b"<html></html>", status=status, content_type="text/html"))
    assert error.kind is kind
    assert "the answer is not declared as JSON" in str(error)


@pytest.mark.parametrize(
    ("answer", "defect"),
    [
        (OneAnswer(success(None)), "null, not an object"),
        (OneAnswer(success([])), "of the type list, not an object"),
        (OneAnswer(success({})), "names no download"),
        (OneAnswer(success({"default": "soon"})), "of the type str, not an object"),
        (OneAnswer({"result": {"default": READY}}), "not one of the API's envelopes"),
        (OneAnswer(success(READY) | {"success": "yes"}), "not one of the API's envelopes"),
        (OneAnswer([success(READY)]), "not one of the API's envelopes"),
        (OneAnswer(b'{"result": {"default"'), "not JSON"),
        (OneAnswer(b""), "not JSON"),
        (OneAnswer(b"\xff\xfe{}"), "not JSON"),
        (OneAnswer(b"[" * 100_000), "not JSON"),
        (OneAnswer(b"9" * 5000), "not JSON"),
        (OneAnswer(success(READY), content_type="text/plain"), "not declared as JSON"),
        (OneAnswer(success(READY), content_type=""), "not declared as JSON"),
        (OneAnswer(b" " * (StreamClient.MAX_BYTES + 1)), "longer than 1048576 bytes"),
        (OneAnswer(success(READY), content_length="5000"), "broke off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unusable_success_is_an_ambiguous_refusal(answer: OneAnswer, defect: str) -> None:
    error = refusal(answer)
    assert error.kind is RefusalKind.UNUSABLE
    assert error.ambiguous
    assert defect in str(error)


NO_SECRET = {"notificationUrl": "https://a.example"}


@pytest.mark.parametrize(
    ("call", "results"),
    [
        ("list downloads", [[], "ok", {"default": []}]),
        ("list videos", [None, {}, "ok"]),
        ("get video", [None, [], {}, {"uid": "../x"}]),
        ("put webhook", [None, NO_SECRET, NO_SECRET | {"secret": ""}]),
        ("create token", [None, {}, {"token": ""}, {"token": 5}]),
    ],
)
def test_a_result_of_another_shape_is_refused(call: str, results: list[object]) -> None:
    for result in results:
        with pytest.raises(Refused) as caught:
            CALLS[call](client(OneAnswer(success(result))), UID)
        assert caught.value.kind is RefusalKind.UNUSABLE, result


def test_a_body_exactly_as_long_as_allowed_is_read() -> None:
    body = json.dumps(success({"default": READY})).encode()
    padded = body + b" " * (StreamClient.MAX_BYTES - len(body))
    assert client(OneAnswer(padded)).list_downloads(UID, seconds=5)


def test_an_error_says_what_the_envelope_says() -> None:
    said = {"code": 10005, "message": "Bad Request", "source": {"pointer": "/exp"}}
    error = refusal(OneAnswer(failure(said, {"code": 1, "message": "More"}), status=400))
    assert error.errors == (ApiMessage(10005, "Bad Request"), ApiMessage(1, "More"))
    assert str(error) == "create download: Cloudflare answered 400 (10005 Bad Request; 1 More)"


def test_an_error_among_the_messages_is_found() -> None:
    said = {"code": 10003, "message": "Not Found"}
    error = refusal(OneAnswer(failure(messages=[said]), status=404))
    assert error.errors == (ApiMessage(10003, "Not Found"),)


@pytest.mark.parametrize("errors", [None, "wrong", {}, [None, 5], [{"code": "x", "message": 5}]])
def test_errors_in_another_shape_do_no_harm(errors: object) -> None:
    error = refusal(OneAnswer(failure(errors=errors, messages=None), status=404))
    assert error.kind is RefusalKind.NOT_FOUND


def test_an_error_that_quotes_the_credential_does_not_pass_it_on() -> None:
    said = {"code": 1, "message": f"bad header: Bearer {TOKEN}"}
    error = refusal(OneAnswer(failure(said), status=400))
    assert TOKEN not in f"{error} {error.errors}"


def test_a_long_message_is_cut_to_what_a_table_can_store() -> None:
    said = {"code": 1, "message": "\ud800" + "x" * 9999}
    error = refusal(OneAnswer(failure(*[said] * 99), status=400))
    assert error.errors[0].message == "?" + "x" * 299
    assert len(str(error)) < 4000


SECONDS = {"0": 0.0, "60": 60.0, " 7.5 ": 7.5, "1" + "0" * 30: 1e30}
INVALID_SECONDS = [
    "1" * 5000,
    "-60",
    "+60",
    "1e3",
    "1_000",
    "NaN",
    "Infinity",
    "",
    "٦٠",
    "Wed, 21 Oct 2099 07:28:00 GMT",
]


@pytest.mark.parametrize("header", [*SECONDS, *INVALID_SECONDS])
def test_retry_after_is_a_number_of_seconds(header: str) -> None:
    answer = OneAnswer(failure(), status=429, retry_after=header)
    assert refusal(answer).retry_after == SECONDS.get(header)


LIMITS = {
    '"default";r=50;t=30': RateLimit(50, 30.0),
    '"default"; r=0; t=300': RateLimit(0, 300.0),
    '"default";t=30;r=50': RateLimit(50, 30.0),
    '"default";r=50;t=30, "burst";r=3;t=1': RateLimit(3, 1.0),
}
UNREADABLE = ("-1", "1.5", "x", "9" * 5000)
INVALID_LIMITS = ["", '"default";r=50', *(f'"default";r={number};t=30' for number in UNREADABLE)]


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("header", [*LIMITS, *INVALID_LIMITS])
def test_the_rate_limit_of_an_answer_is_passed_on(header: str, status: int) -> None:
    heard: list[RateLimit] = []
    pool = OneAnswer(success({}), status=status, ratelimit=header)
    with suppress(Refused):
        client(pool, on_rate_limit=heard.append).list_downloads(UID, seconds=5)
    limit = LIMITS.get(header)
    assert heard == ([limit] if limit else [])


def test_nothing_is_read_once_the_time_of_an_answer_is_over() -> None:
    class Connection:
        def gettimeout(self) -> float:
            """Return no time at all."""
            return 1e-9

    stream = http._BoundedStream(io.BytesIO(b"late"), Connection())  # type: ignore[arg-type]
    with pytest.raises(TimeoutError, match="did not end in time"):
        stream.readinto(bytearray(4))
