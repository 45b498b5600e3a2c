"""Test which descriptions of a video can be read, and why others cannot."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_downloads.domain.video import (
    Unusable,
    UnusableReason,
    Video,
    parse_video,
    parse_webhook,
)
from tests.support.events import VIDEO_UID, encoded, load_event, video_event

R = UnusableReason


def parse(**fields: Any) -> Video:
    """Read Cloudflare's example event with some fields changed."""
    return parse_webhook(encoded(video_event(**fields)))


def reason_for(body: bytes) -> UnusableReason:
    with pytest.raises(Unusable) as refused:
        parse_webhook(body)
    return refused.value.reason


def test_cloudflares_own_example_is_read() -> None:
    assert parse() == Video(
        uid=VIDEO_UID,
        state="ready",
        created_at=datetime(2022, 6, 30, 17, 53, 12, 512033, UTC).timestamp(),
        name="small.mp4",
        duration_seconds=5.5,
        requires_signed_url=False,
    )


def test_a_failed_video_is_read() -> None:
    video = parse_webhook(encoded(load_event("video_failed")))
    assert video == video._replace(state="error", duration_seconds=None, error_code="ERR_NON_VIDEO")
    assert video.error_message == "The file was not recognized as a valid video file."


@pytest.mark.parametrize(
    ("state", "said", "code", "message"),
    [
        ("error", {"errorReasonCode": "ERR", "errorReasonText": "No."}, "ERR", "No."),
        ("error", {"errReasonCode": "ERR", "errReasonText": "No."}, "ERR", "No."),
        ("error", {"errorReasonCode": "", "errReasonCode": "ERR"}, "ERR", None),
        ("ready", {"errorReasonCode": "ERR", "errorReasonText": "No."}, None, None),
    ],
    ids=["long names", "short names", "an empty long name", "a ready video"],
)
def test_the_reason_of_a_failed_video_is_read_in_both_spellings(
    state: str, said: dict[str, str], code: str | None, message: str | None
) -> None:
    video = parse(status={"state": state, **said})
    assert video == video._replace(error_code=code, error_message=message)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T00:01:00.123456789Z", 60.123456),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:01:00", 60.0),
        *((said, None) for said in ("yesterday", "", "\ud800", 60, None)),
    ],
)
def test_a_time_is_read_if_it_is_one(said: object, meant: float | None) -> None:
    video = parse_webhook(json.dumps(video_event(created=said, readyToStreamAt=said)).encode())
    assert video == video._replace(created_at=meant, ready_at=meant)


@pytest.mark.parametrize("percent", ["39.000000", "100", 39, None, "", float("nan"), [], -1])
def test_the_state_alone_decides(percent: object) -> None:
    video = parse(readyToStream=False, status={"state": "ready", "pctComplete": percent})
    assert video == parse()


def test_unknown_fields_are_ignored() -> None:
    assert parse(clippedFrom=None, future={"a": [1, 2.5, {"b": "c"}]}) == parse()


@pytest.mark.parametrize(("said", "meant"), [(True, True), (False, False), (None, None), (1, None)])
def test_a_private_video_is_known_only_by_a_boolean(said: object, *, meant: bool | None) -> None:
    assert parse(requireSignedURLs=said).requires_signed_url is meant


INVALID_DURATIONS = [1e-300, -1, -0.0, 0, 31_622_401, 1e300, 10**400, True, "5.5", None, []]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (5.5, 5.5),
        (7, 7.0),
        (0.1234567, 0.123),
        (31_622_400, 31_622_400.0),
        *((said, None) for said in INVALID_DURATIONS),
    ],
)
def test_a_duration_is_read_if_it_can_be_one(said: object, meant: float | None) -> None:
    assert parse(duration=said).duration_seconds == meant


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("alice", "alice"),
        ("Ünïcode 🎬", "Ünïcode 🎬"),
        ("x" * 5000, "x" * 1024),
        *((said, None) for said in ("", None, 42, ["a"], {"a": "b"})),
    ],
)
def test_a_text_is_read_if_it_is_one(said: object, meant: str | None) -> None:
    video = parse(creator=said, liveInput=said, meta={"name": said})
    assert [video.creator, video.live_input, video.name] == [meant] * 3


def test_half_a_surrogate_cannot_be_stored_and_counts_as_not_said() -> None:
    event = video_event(creator="\ud800", meta={"name": "a\udfffb"})
    video = parse_webhook(json.dumps(event).encode())
    assert video == video._replace(creator=None, name=None)


@pytest.mark.parametrize("meta", [None, [], "small.mp4", 1])
def test_meta_of_another_type_has_no_name(meta: object) -> None:
    assert parse(meta=meta).name is None


@pytest.mark.parametrize(
    ("said", "logged"), [("audio", None), ("x" * 99, "'" + "x" * 59), (["é"], "['\\xe9']")]
)
def test_an_unknown_choice_of_downloads_is_kept_in_part(said: object, logged: str | None) -> None:
    assert parse(meta={"downloads": said}).unknown_downloads == logged


def test_an_event_of_the_two_needed_fields_is_enough() -> None:
    body = encoded({"uid": VIDEO_UID, "status": {"state": "ready"}})
    assert parse_webhook(body) == Video(uid=VIDEO_UID, state="ready")
    assert parse_video({"uid": VIDEO_UID}) == Video(uid=VIDEO_UID, state="")


READY = encoded(load_event("video_ready"))
NOT_READABLE: dict[str, tuple[bytes, UnusableReason]] = {
    "empty": (b"", R.NOT_JSON),
    "binary": (b"\x00\xff\xfe\x80", R.NOT_JSON),
    "gzip": (gzip.compress(READY), R.NOT_JSON),
    "latin-1": ('{"name":"é"}'.encode("latin-1"), R.NOT_JSON),
    "a surrogate in UTF-8": (b'{"name":"\xed\xa0\x80"}', R.NOT_JSON),
    "UTF-16 with a mark": (READY.decode().encode("utf-16"), R.NOT_JSON),
    "UTF-16 without a mark": (READY.decode().encode("utf-16-le"), R.NOT_JSON),
    "a byte order mark": (b"\xef\xbb\xbf" + READY, R.NOT_JSON),
    "white space": (b" \n", R.NOT_JSON),
    "not JSON": (b"uid=6b9e68b07dfee8cc2d116e4c51d6a957", R.NOT_JSON),
    "cut": (READY[:-1], R.NOT_JSON),
    "trailing data": (READY + b"{}", R.NOT_JSON),
    "a trailing comma": (b'{"uid":"x",}', R.NOT_JSON),
    "single quotes": (b"{'uid':'x'}", R.NOT_JSON),
    "a raw newline in a text": (b'{"uid":"x\n"}', R.NOT_JSON),
    "an integer of 5,000 digits": (READY[:-1] + b',"x":' + b"1" * 5000 + b"}", R.NOT_JSON),
    "NaN as the uid": (b'{"uid":NaN,"status":{"state":"ready"}}', R.UID),
    "Infinity as the uid": (b'{"uid":Infinity,"status":{"state":"ready"}}', R.UID),
    "NaN as the state": (encoded(video_event(status={"state": float("nan")})), R.STATE),
    "100,000 arrays deep": (b"[" * 100_000 + b"]" * 100_000, R.NESTED_TOO_DEEP),
    "100,000 arrays never closed": (b"[" * 100_000, R.NESTED_TOO_DEEP),
    "100,000 objects deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, R.NESTED_TOO_DEEP),
    "an array": (b"[" + READY + b"]", R.NOT_AN_OBJECT),
    "a string": (b'"ready"', R.NOT_AN_OBJECT),
    "null": (b"null", R.NOT_AN_OBJECT),
    "true": (b"true", R.NOT_AN_OBJECT),
    "a number": (b"1", R.NOT_AN_OBJECT),
    "an empty object": (b"{}", R.UID),
    "a live-input event": (encoded(load_event("live_input")), R.LIVE_INPUT),
    "no uid": (encoded({"status": {"state": "ready"}}), R.UID),
    "no state": (encoded({"uid": VIDEO_UID}), R.STATE),
}


@pytest.mark.parametrize(("body", "reason"), NOT_READABLE.values(), ids=NOT_READABLE.keys())
def test_a_body_that_says_nothing_is_unusable(body: bytes, reason: UnusableReason) -> None:
    assert reason_for(body) is reason


@pytest.mark.parametrize("kind", ["connected", "disconnected", "errored"])
def test_every_live_input_event_has_its_own_reason(kind: str) -> None:
    event = load_event("live_input")
    event["data"]["event_type"] = f"live_input.{kind}"
    assert reason_for(encoded(event)) is R.LIVE_INPUT


@pytest.mark.parametrize("data", [None, "live_input.connected", {"event_type": ["live_input."]}])
def test_a_video_event_with_other_data_is_a_video_event(data: object) -> None:
    assert parse(data=data) == parse()


OTHER_THAN_TEXTS = [None, 1, 1.5, True, [VIDEO_UID], {"uid": VIDEO_UID}]
PATHS = ["../x", "%2e", f"../{VIDEO_UID[3:]}"]
NEARLY_UIDS = ["", VIDEO_UID[:-1], VIDEO_UID + "0", VIDEO_UID + "\n", " " + VIDEO_UID[1:]]
OTHER_DIGITS = [VIDEO_UID.upper(), "g" * 32, "６" + VIDEO_UID[1:], "６" * 32]  # noqa: RUF001


@pytest.mark.parametrize("uid", [*OTHER_THAN_TEXTS, *PATHS, *NEARLY_UIDS, *OTHER_DIGITS])
def test_a_uid_that_is_none_is_unusable(uid: object) -> None:
    assert reason_for(encoded(video_event(uid=uid))) is R.UID


OTHER_STATES = ["inprogress", "queued", "downloading", "pendingupload", "live-inprogress"]
INVALID_STATES = [None, "", "READY", "ready ", ["ready"], {"ready": True}, True]


@pytest.mark.parametrize(
    "status",
    [None, [], "ready", {}, *({"state": state} for state in [*OTHER_STATES, *INVALID_STATES])],
)
def test_an_unknown_state_is_unusable(status: object) -> None:
    assert reason_for(encoded(video_event(status=status))) is R.STATE


def test_every_reason_is_tried_above() -> None:
    assert {reason for _, reason in NOT_READABLE.values()} == set(R)


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", b"1" * 4000], ids=len)
def test_a_number_in_an_unknown_field_does_no_harm(value: bytes) -> None:
    assert parse_webhook(READY[:-1] + b',"duration":' + value + b"}").duration_seconds is None
    assert parse_webhook(READY[:-1] + b',"x":' + value + b"}") == parse()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["ready", "error", VIDEO_UID, "live_input.connected"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)
NAMES = st.sampled_from([*load_event("video_ready"), "liveInput", "data"])
EVENTS = st.builds(
    lambda fields, state: video_event(**fields) | state,
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.one_of(
        st.just({}), st.fixed_dictionaries({"status": st.dictionaries(st.just("state"), VALUES)})
    ),
)


def read(body: bytes) -> None:
    try:
        video = parse_webhook(body)
    except Unusable:
        return
    texts = [video.creator, video.name, video.live_input, video.error_code, video.error_message]
    assert all(text is None or 0 < len(text.encode()) <= 4 * 1024 for text in texts)
    assert video.duration_seconds is None or 0 < video.duration_seconds <= 366 * 24 * 3600
    assert video.state in ("ready", "error")
    assert len(video.uid) == 32


@given(st.binary())
def test_nothing_but_a_typed_refusal_comes_out_of_bytes(body: bytes) -> None:
    read(body)


@pytest.mark.no_cover
@given(VALUES)
def test_nothing_but_a_typed_refusal_comes_out_of_json(value: object) -> None:
    read(json.dumps(value).encode())


@pytest.mark.no_cover
@given(EVENTS)
def test_an_event_with_changed_fields_is_read_or_refused(
    event: dict[str, Any],
) -> None:
    read(json.dumps(event).encode())


@pytest.mark.no_cover
@given(st.data())
def test_nothing_but_a_typed_refusal_comes_out_of_a_changed_body(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(READY)))
    end = data.draw(st.integers(start, min(start + 20, len(READY))))
    read(READY[:start] + data.draw(st.binary(max_size=20)) + READY[end:])
