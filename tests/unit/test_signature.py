"""Test which signatures are authentic, and why others are not."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_downloads.adapters.function_url import unwrap
from stream_downloads.domain import signature
from stream_downloads.domain.signature import NoSecret, Unauthentic, UnauthenticReason, sign
from tests.support.events import EXAMPLE_SECRET, EXAMPLE_TIME, load_event

NOW = EXAMPLE_TIME
BODY = b'{"uid":"6b9e68b07dfee8cc2d116e4c51d6a957"}'
# Made by: (printf 1230811200.; cat body) | openssl dgst -sha256 -hmac example-signing-secret
HEX = "4ba5cdef64ae9b342c03e80a48311bb4468ceff57873ea9fe3ed9fcee5e82696"
HEADER = f"time={NOW},sig1={HEX}"
WRONG = "0" * 64
PREVIOUS = b"the-secret-before"


def verify(
    header: str | None = HEADER,
    *,
    body: bytes = BODY,
    secrets: Sequence[bytes] = (EXAMPLE_SECRET,),
    now: float = NOW,
) -> None:
    """Verify a good webhook, but for what the test changes."""
    signature.verify(body, header, secrets, now)


def reason_for(header: str | None = HEADER, **changes: Any) -> UnauthenticReason:
    with pytest.raises(Unauthentic) as refused:
        verify(header, **changes)
    return refused.value.reason


# Each made by: (printf 1230811200.; cat body) | openssl dgst -sha256 -hmac <secret>
KNOWN_ANSWERS = [
    (BODY, EXAMPLE_SECRET, HEX),
    (b"", EXAMPLE_SECRET, "b8b4e3f8e037ebd1948920e6df68310d2fef691cebc5b6a0f0bdcc210cf69f0a"),
    (
        b'{"name":"caf\xc3\xa9 \xf0\x9f\x8e\xac"}',
        # A secret in hex, as Cloudflare makes them: its characters are the key.
        b"85011ed3a913c6ad5f9cf6c5573cc0a7",
        "80783f5d0f7a20c49559a996f9cdca9853f146139efd614572fddc6c1c39c034",
    ),
    (
        b"\x00\xff\r\n",
        EXAMPLE_SECRET,
        "ed9a128ed887ca774f8e44103e8b80e20bb024bd2f5ebe27c767f28dbb34a627",
    ),
]


@pytest.mark.parametrize(("body", "secret", "digest"), KNOWN_ANSWERS)
def test_a_signature_made_by_openssl_is_verified(body: bytes, secret: bytes, digest: str) -> None:
    verify(f"time={NOW},sig1={digest}", body=body, secrets=[secret])


@pytest.mark.parametrize(("body", "secret", "digest"), KNOWN_ANSWERS)
def test_signing_makes_what_openssl_makes(body: bytes, secret: bytes, digest: str) -> None:
    assert sign(body, secret, NOW) == f"time={NOW},sig1={digest}"


@pytest.mark.parametrize("name", ["receive_webhook", "receive_webhook_video_failed"])
def test_the_signatures_in_the_example_events_are_verified(name: str) -> None:
    delivery = unwrap(load_event(name))
    verify(delivery.signature, body=delivery.body)


UNUSUAL = {
    "reordered": f"sig1={HEX},time={NOW}",
    "spaces around the comma": f"time={NOW} , sig1={HEX}",
    "spaces around it all": f"  time={NOW},sig1={HEX}  ",
    "upper-case hex": f"time={NOW},sig1={HEX.upper()}",
    "another kind of signature beside it": f"time={NOW},sig1={HEX},sig2={HEX}",
    "unknown keys": f"v=2,time={NOW},sig1={HEX},later=a=b==,empty=",
    "several signatures": f"time={NOW},sig1={WRONG},sig1={HEX}",
    "five signatures": f"time={NOW},sig1={HEX}" + f",sig1={WRONG}" * 4,
}


@pytest.mark.parametrize("header", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_an_unusual_but_right_header_is_accepted(header: str) -> None:
    verify(header)


@pytest.mark.parametrize("offset", [-300, -299, 0, 299.5, 300])
def test_a_signature_within_300_seconds_is_accepted(offset: float) -> None:
    verify(now=NOW + offset)


@pytest.mark.parametrize("other", [PREVIOUS, b""], ids=["another", "an empty one"])
def test_a_signature_is_good_under_each_of_the_secrets(other: bytes) -> None:
    verify(secrets=(other, EXAMPLE_SECRET))
    verify(secrets=(EXAMPLE_SECRET, other))


R = UnauthenticReason
NOT_AUTHENTIC: dict[str, tuple[str | None, UnauthenticReason]] = {
    "no header": (None, R.MISSING),
    "empty": ("", R.MISSING),
    "only spaces": ("   ", R.MALFORMED),
    "no equals sign": (f"{HEADER},x", R.MALFORMED),
    "no key": (f"{HEADER},=x", R.MALFORMED),
    "a comma too many": (f"{HEADER},", R.MALFORMED),
    "no time": (f"sig1={HEX}", R.MALFORMED),
    "no sig1": (f"time={NOW}", R.MALFORMED),
    "empty time": (f"time=,sig1={HEX}", R.MALFORMED),
    "empty sig1": (f"time={NOW},sig1=", R.MALFORMED),
    "sig1=a=b": (f"time={NOW},sig1=a=b", R.MALFORMED),
    "sig1=hex=": (f"time={NOW},sig1={HEX}=", R.MALFORMED),
    "two times": (f"time={NOW},time={NOW},sig1={HEX}", R.MALFORMED),
    "two times that differ": (f"time={NOW},sig1={HEX},time=1", R.MALFORMED),
    "only sig2": (f"time={NOW},sig2={HEX}", R.MALFORMED),
    "keys in upper case": (f"TIME={NOW},SIG1={HEX}", R.MALFORMED),
    "sig1 in upper case": (f"time={NOW},SIG1={HEX}", R.MALFORMED),
    "a space before the equals sign": (f"time ={NOW},sig1={HEX}", R.MALFORMED),
    "a space after the equals sign": (f"time= {NOW},sig1={HEX}", R.MALFORMED),
    "63 characters": (f"time={NOW},sig1={HEX[:-1]}", R.MALFORMED),
    "65 characters": (f"time={NOW},sig1={HEX}0", R.MALFORMED),
    "128 characters": (f"time={NOW},sig1={HEX}{HEX}", R.MALFORMED),
    "not hex": (f"time={NOW},sig1={'g' * 64}", R.MALFORMED),
    "hex with a prefix": (f"time={NOW},sig1=0x{HEX[2:]}", R.MALFORMED),
    "not ASCII": (f"{HEADER},x=é", R.MALFORMED),
    "full-width digits": (f"time={NOW},sig1={'０' * 64}", R.MALFORMED),  # noqa: RUF001
    "half a surrogate": (f"{HEADER},x=\ud800", R.MALFORMED),
    "a trailing newline": (f"{HEADER}\n", R.MALFORMED),
    "a newline after the time": (f"sig1={HEX},time={NOW}\n", R.MALFORMED),
    "a tab": (f"time={NOW},\tsig1={HEX}", R.MALFORMED),
    "a NUL": (f"{HEADER},x=\x00", R.MALFORMED),
    "over 1 KiB": (f"{HEADER},x={'a' * 1024}", R.MALFORMED),
    "six sig1, one right": (HEADER + f",sig1={WRONG}" * 5, R.MALFORMED),
    "one sig1 right, one malformed": (f"{HEADER},sig1=a", R.MALFORMED),
    "a negative time": (f"time=-{NOW},sig1={HEX}", R.MALFORMED),
    "a time with a plus": (f"time=+{NOW},sig1={HEX}", R.MALFORMED),
    "a float": (f"time={NOW}.0,sig1={HEX}", R.MALFORMED),
    "1e9": (f"time=1e9,sig1={HEX}", R.MALFORMED),
    "NaN": (f"time=NaN,sig1={HEX}", R.MALFORMED),
    "Infinity": (f"time=Infinity,sig1={HEX}", R.MALFORMED),
    "an underscore": (f"time=1_230_811_200,sig1={HEX}", R.MALFORMED),
    "hexadecimal": (f"time={NOW:#x},sig1={HEX}", R.MALFORMED),
    "Arabic digits": (f"time=١٢٣٠٨١١٢٠٠,sig1={HEX}", R.MALFORMED),
    "milliseconds": (f"time={NOW}000,sig1={HEX}", R.MALFORMED),
    "500 digits": (f"time={'1' * 500},sig1={HEX}", R.MALFORMED),
    "5,000 digits": (f"time={'1' * 5000},sig1={HEX}", R.MALFORMED),
    "a leading zero": (f"time=0{NOW},sig1={HEX}", R.MISMATCH),
    "another time": (f"time={NOW + 1},sig1={HEX}", R.MISMATCH),
    "a wrong signature": (f"time={NOW},sig1={WRONG}", R.MISMATCH),
    "a wrong signature, long ago": (f"time=1,sig1={WRONG}", R.MISMATCH),
}


@pytest.mark.parametrize(("header", "reason"), NOT_AUTHENTIC.values(), ids=NOT_AUTHENTIC.keys())
def test_a_header_without_proof_is_refused(header: str | None, reason: UnauthenticReason) -> None:
    assert reason_for(header) is reason


def test_a_header_of_1_kib_is_read_and_one_character_more_is_not() -> None:
    verify(f"{HEADER},x=".ljust(1024, "a"))
    assert reason_for(f"{HEADER},x=".ljust(1025, "a")) is R.MALFORMED


CHANGED = {
    "newline": BODY + b"\n",
    "space": b" " + BODY,
    "cut": BODY[:-1],
    "empty": b"",
    "one byte": BODY.replace(b"6b", b"6c"),
    "re-serialised": json.dumps(json.loads(BODY)).encode(),
    "byte order mark": b"\xef\xbb\xbf" + BODY,
}


@pytest.mark.parametrize("body", CHANGED.values(), ids=CHANGED.keys())
def test_a_changed_body_is_refused(body: bytes) -> None:
    assert reason_for(body=body) is R.MISMATCH


@pytest.mark.parametrize("secret", [b"another", EXAMPLE_SECRET + b"\n", EXAMPLE_SECRET.upper()])
def test_another_secret_is_refused(secret: bytes) -> None:
    assert reason_for(secrets=[secret]) is R.MISMATCH


@pytest.mark.parametrize("secrets", [(EXAMPLE_SECRET,), (b"new", EXAMPLE_SECRET)])
@pytest.mark.parametrize("offset", [300.001, 301, 86400])
def test_a_right_signature_is_refused_for_its_time(secrets: Sequence[bytes], offset: float) -> None:
    assert reason_for(secrets=secrets, now=NOW + offset) is R.TOO_OLD
    assert reason_for(secrets=secrets, now=NOW - offset) is R.TOO_NEW


@pytest.mark.parametrize("secrets", [(), (b"",), (b"", b"")])
@pytest.mark.parametrize("header", [HEADER, None, "", f"time={NOW},sig1={WRONG}"])
def test_without_a_secret_it_is_our_own_fault(secrets: Sequence[bytes], header: str | None) -> None:
    with pytest.raises(NoSecret):
        verify(header, secrets=secrets)


def test_a_signature_made_with_an_empty_secret_is_never_good() -> None:
    forged = hmac.new(b"", f"{NOW}.".encode() + BODY, "sha256").hexdigest()
    with pytest.raises(NoSecret):
        verify(f"time={NOW},sig1={forged}", secrets=[b""])
    assert reason_for(f"time={NOW},sig1={forged}", secrets=[b"", b"new"]) is R.MISMATCH


def test_an_empty_secret_signs_nothing() -> None:
    with pytest.raises(NoSecret):
        sign(BODY, b"", NOW)


def test_the_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    header = f"time={NOW},sig1={HEX},sig1={WRONG}"
    assert reason_for(header, secrets=[EXAMPLE_SECRET, PREVIOUS]) is R.MISMATCH
    assert len(compared) == 4  # each signature under each secret, though the first was right
    assert all(len(ours) == len(theirs) == 32 for ours, theirs in compared)


def test_every_reason_has_a_message_of_its_own() -> None:
    assert len({str(Unauthentic(reason)) for reason in R}) == len(R) == 5
    assert str(Unauthentic(R.MISSING)) == "there is no Webhook-Signature header"


# Pieces of real headers put together at random reach deeper than random text alone.
PIECES = st.sampled_from(
    ["time", "sig1", "sig2", "=", ",", " ", str(NOW), HEX, WRONG, "", "\n", "-1", "é", "TIME"]
)
HEADERS = st.one_of(
    st.none(),
    st.text(),
    st.lists(PIECES).map("".join),
    st.binary().map(lambda raw: raw.decode("latin-1")),
)


@pytest.mark.no_cover
@given(header=HEADERS, body=st.binary(), now=st.floats(allow_nan=False))
def test_nothing_but_a_typed_refusal_comes_out(header: str | None, body: bytes, now: float) -> None:
    try:
        verify(header, body=body, now=now)
    except Unauthentic:
        return
    assert body == BODY


@pytest.mark.no_cover
@given(body=st.binary(), secret=st.binary(min_size=1), now=st.integers(0, 10**11))
def test_whatever_is_signed_is_verified(body: bytes, secret: bytes, now: int) -> None:
    signature.verify(body, sign(body, secret, now), [b"another", secret], now)
