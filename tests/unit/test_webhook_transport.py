"""What comes over HTTP: method, size, encoding, header."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from stream_downloads.domain import webhook
from stream_downloads.domain.webhook import BadTransport, TransportReason
from tests.events import load_event, signed_event

MIB = 1024 * 1024


def request(**fields: Any) -> dict[str, Any]:
    """Make a good request, then change some fields of it."""
    return signed_event(b'{"uid":1}') | fields


def refusal_of(event: dict[str, Any]) -> tuple[int, TransportReason]:
    with pytest.raises(BadTransport) as refused:
        webhook.unwrap(event)
    return refused.value.status, refused.value.reason


def test_a_text_body_is_taken_as_its_bytes() -> None:
    delivery = webhook.unwrap(request(body='{"name":"café 🎬"}'))
    assert delivery.body == b'{"name":"caf\xc3\xa9 \xf0\x9f\x8e\xac"}'


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x00\xff\r\n", bytes(range(256))])
def test_a_base64_body_is_decoded_to_its_bytes(raw: bytes) -> None:
    assert webhook.unwrap(signed_event(raw, is_base64=True)).body == raw


@pytest.mark.parametrize("fields", [{"body": None}, {"body": ""}])
def test_no_body_is_an_empty_one(fields: dict[str, Any]) -> None:
    assert webhook.unwrap(request(**fields)).body == b""


def test_a_request_without_the_field_body_has_an_empty_one() -> None:
    event = request()
    del event["body"]
    assert webhook.unwrap(event).body == b""


@pytest.mark.parametrize("name", ["webhook-signature", "Webhook-Signature", "WEBHOOK-SIGNATURE"])
def test_the_header_is_found_in_any_case(name: str) -> None:
    assert webhook.unwrap(request(headers={name: "time=1,sig1=a"})).signature == "time=1,sig1=a"


@pytest.mark.parametrize("headers", [{}, None, [], {"host": "x"}, {"webhook-signature": 1}])
def test_a_request_without_a_signature_header_has_none(headers: object) -> None:
    assert webhook.unwrap(request(headers=headers)).signature is None


def test_two_signature_headers_are_one_with_two_times() -> None:
    headers = {"webhook-signature": "time=1,sig1=a", "Webhook-Signature": "time=2,sig1=b"}
    assert webhook.unwrap(request(headers=headers)).signature == "time=1,sig1=a,time=2,sig1=b"


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "post", "", None, 1])
def test_another_method_than_post_is_405(method: object) -> None:
    event = request()
    event["requestContext"]["http"]["method"] = method
    assert refusal_of(event) == (405, TransportReason.METHOD)


@pytest.mark.parametrize("context", [None, {}, "POST", {"http": None}, {"http": "POST"}])
def test_an_event_that_is_no_http_request_is_405(context: object) -> None:
    assert refusal_of(request(requestContext=context)) == (405, TransportReason.METHOD)


@pytest.mark.parametrize(
    "body",
    [
        "not base64",
        "e30",  # padding missing
        "e30=e30=",  # data after the padding
        "e3\n0=",
        "e30=\n",
        "e3-_",  # the URL-safe alphabet
        "=",
        "é30=",
        "\ud800",
    ],
)
def test_undecodable_base64_is_400(body: str) -> None:
    event = request(body=body, isBase64Encoded=True)
    assert refusal_of(event) == (400, TransportReason.ENCODING)


@pytest.mark.parametrize("body", ["\ud800", 1, {"uid": "x"}, ["x"], True])
def test_a_body_that_is_no_text_is_400(body: object) -> None:
    assert refusal_of(request(body=body)) == (400, TransportReason.ENCODING)


@pytest.mark.parametrize("is_base64", [False, True])
def test_a_body_of_one_mebibyte_is_accepted(*, is_base64: bool) -> None:
    assert len(webhook.unwrap(signed_event(b"x" * MIB, is_base64=is_base64)).body) == MIB


@pytest.mark.parametrize("is_base64", [False, True])
@pytest.mark.parametrize("size", [MIB + 1, MIB + 2, MIB + 3, 2 * MIB])
def test_a_body_over_one_mebibyte_is_413(size: int, *, is_base64: bool) -> None:
    event = signed_event(b"x" * size, is_base64=is_base64)
    assert refusal_of(event) == (413, TransportReason.TOO_LARGE)


def test_a_body_is_measured_in_bytes_and_not_in_characters() -> None:
    assert refusal_of(request(body="é" * (MIB // 2 + 1))) == (413, TransportReason.TOO_LARGE)


def test_a_body_far_too_large_is_refused_before_it_is_decoded() -> None:
    undecodable = "!" * (2 * MIB)
    event = request(body=undecodable, isBase64Encoded=True)
    assert refusal_of(event) == (413, TransportReason.TOO_LARGE)


def test_the_example_event_is_unwrapped() -> None:
    event = load_event("receive_webhook")
    delivery = webhook.unwrap(event)
    assert delivery.body == event["body"].encode()
    assert delivery.signature == event["headers"]["webhook-signature"]


def test_base64_is_what_it_says_it_is() -> None:
    text = base64.b64encode(b"{}").decode()
    assert webhook.unwrap(request(body=text, isBase64Encoded=False)).body == text.encode()
