"""Test HTTP requests to the Function URL: method, size, encoding, header."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from stream_downloads.adapters.function_url import BadTransport, answer, unwrap
from tests.support.events import signed_event

MIB = 1024 * 1024


def request(**fields: Any) -> dict[str, Any]:
    """Make a good request, then change some fields of it."""
    return signed_event(b'{"uid":1}') | fields


def refusal_of(event: dict[str, Any]) -> int:
    """Return the status that a request is refused with."""
    with pytest.raises(BadTransport) as refused:
        unwrap(event)
    return refused.value.status


def test_a_text_body_is_taken_as_its_bytes() -> None:
    delivery = unwrap(request(body='{"name":"café 🎬"}'))
    assert delivery.body == b'{"name":"caf\xc3\xa9 \xf0\x9f\x8e\xac"}'


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x00\xff\r\n", bytes(range(256))])
def test_a_base64_body_is_decoded_to_its_bytes(raw: bytes) -> None:
    assert unwrap(signed_event(raw, is_base64=True)).body == raw


def test_no_body_is_an_empty_one() -> None:
    event = request(body=None)
    assert unwrap(event).body == b""
    del event["body"]
    assert unwrap(event).body == b""


@pytest.mark.parametrize("name", ["webhook-signature", "Webhook-Signature", "WEBHOOK-SIGNATURE"])
def test_the_header_is_found_in_any_case(name: str) -> None:
    assert unwrap(request(headers={name: "time=1,sig1=a"})).signature == "time=1,sig1=a"


@pytest.mark.parametrize("headers", [{}, None, [], {"host": "x"}, {"webhook-signature": 1}])
def test_a_request_without_a_signature_header_has_none(headers: object) -> None:
    assert unwrap(request(headers=headers)).signature is None


def test_two_signature_headers_are_one_with_two_times() -> None:
    headers = {"webhook-signature": "time=1,sig1=a", "Webhook-Signature": "time=2,sig1=b"}
    assert unwrap(request(headers=headers)).signature == "time=1,sig1=a,time=2,sig1=b"


@pytest.mark.parametrize(
    "context",
    [
        *({"http": {"method": method}} for method in ("GET", "PUT", "HEAD", "post", "", None, 1)),
        *(None, {}, "POST", {"http": None}, {"http": "POST"}),
    ],
    ids=repr,
)
def test_what_is_no_post_is_405(context: object) -> None:
    assert refusal_of(request(requestContext=context)) == 405


@pytest.mark.parametrize(
    "body",
    [
        "not base64",
        "e3\n0=",
        "e30=\n",
        "=",
        "é30=",
        "\ud800",
        "e30",  # padding missing
        "e30=e30=",  # data after the padding
        "e3-_",  # the URL-safe alphabet
    ],
)
def test_undecodable_base64_is_400(body: str) -> None:
    event = request(body=body, isBase64Encoded=True)
    assert refusal_of(event) == 400


@pytest.mark.parametrize("body", ["\ud800", 1, {"uid": "x"}, ["x"], True])
def test_a_body_that_is_no_text_is_400(body: object) -> None:
    assert refusal_of(request(body=body)) == 400


@pytest.mark.parametrize("is_base64", [False, True])
def test_a_body_of_one_mebibyte_is_accepted_and_a_longer_one_is_413(*, is_base64: bool) -> None:
    assert len(unwrap(signed_event(b"x" * MIB, is_base64=is_base64)).body) == MIB
    for size in (MIB + 1, MIB + 2, MIB + 3, 2 * MIB):
        assert refusal_of(signed_event(b"x" * size, is_base64=is_base64)) == 413, size


def test_a_body_is_measured_in_bytes_and_not_in_characters() -> None:
    assert refusal_of(request(body="é" * (MIB // 2 + 1))) == 413


def test_a_body_far_too_large_is_refused_before_it_is_decoded() -> None:
    assert refusal_of(request(body="!" * (2 * MIB), isBase64Encoded=True)) == 413


def test_base64_is_what_it_says_it_is() -> None:
    text = base64.b64encode(b"{}").decode()
    assert unwrap(request(body=text, isBase64Encoded=False)).body == text.encode()


def test_an_answer_says_no_more_than_its_status() -> None:
    assert answer(403) == {
        "statusCode": 403,
        "headers": {"Content-Type": "text/plain; charset=utf-8"},
        "body": "forbidden",
    }
