"""Signatures: a function accepts a trigger only from its bridge, and only once."""

import hashlib
import hmac

import pytest

from broker.messages import signature
from broker.messages.errors import BadSignature
from broker.messages.signature import CALL_ID, SIGNATURE, SKEW_S, TIMESTAMP

KEY = b"the bridge's and the function's"
BODY = b'{"attempt":1}'
NOW_S = 1_800_000_000.0


def signed(call_id: str = "call-1", now_s: float = NOW_S, body: bytes = BODY) -> dict[str, str]:
    return signature.sign(KEY, body, call_id, now_s)


def test_the_signature_is_hmac_sha256_over_time_call_and_body() -> None:
    text = f"1800000000.call-1.{hashlib.sha256(BODY).hexdigest()}"
    expected = hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()
    assert signed() == {CALL_ID: "call-1", TIMESTAMP: "1800000000", SIGNATURE: f"sha256={expected}"}


def test_a_signed_call_is_accepted_whatever_the_case_of_its_headers() -> None:
    for change in (str.lower, str.upper, str.title):
        signature.verify(KEY, BODY, {change(name): value for name, value in signed().items()}, NOW_S, {})


@pytest.mark.parametrize(
    "changed",
    [
        {CALL_ID: "call-2"},
        {TIMESTAMP: "1800000001"},
        {TIMESTAMP: "soon"},
        {SIGNATURE: "sha256=" + "0" * 64},
        {SIGNATURE: "sha1=" + "0" * 40},
        {SIGNATURE: "ä"},
    ],
)
def test_a_changed_header_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(BadSignature, match="not the bridge's"):
        signature.verify(KEY, BODY, signed() | changed, NOW_S, {})


@pytest.mark.parametrize("missing", [CALL_ID, TIMESTAMP])
def test_a_missing_header_is_refused(missing: str) -> None:
    headers = signed()
    del headers[missing]
    with pytest.raises(BadSignature, match="not the bridge's"):
        signature.verify(KEY, BODY, headers, NOW_S, {})


@pytest.mark.parametrize("given", [{}, {SIGNATURE: ""}])
def test_an_unsigned_call_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(BadSignature, match="not signed"):
        signature.verify(KEY, BODY, given, NOW_S, {})


def test_another_body_and_another_key_are_refused() -> None:
    with pytest.raises(BadSignature, match="not the bridge's"):
        signature.verify(KEY, BODY + b" ", signed(), NOW_S, {})
    with pytest.raises(BadSignature, match="not the bridge's"):
        signature.verify(b"another", BODY, signed(), NOW_S, {})


@pytest.mark.parametrize(("off_s", "accepted"), [(SKEW_S, True), (-SKEW_S, True), (SKEW_S + 1, False), (-301, False)])
def test_clocks_may_be_five_minutes_apart(off_s: float, *, accepted: bool) -> None:
    if accepted:
        signature.verify(KEY, BODY, signed(), NOW_S + off_s, {})
    else:
        with pytest.raises(BadSignature, match=r"s ago; are the clocks right"):
            signature.verify(KEY, BODY, signed(), NOW_S + off_s, {})


def test_a_call_is_accepted_once() -> None:
    seen: dict[str, float] = {}
    signature.verify(KEY, BODY, signed(), NOW_S, seen)
    with pytest.raises(BadSignature, match="before"):
        signature.verify(KEY, BODY, signed(), NOW_S + 1, seen)
    signature.verify(KEY, BODY, signed("call-2"), NOW_S + 1, seen)


def test_a_refused_call_s_id_may_still_be_used() -> None:
    seen: dict[str, float] = {}
    with pytest.raises(BadSignature):
        signature.verify(KEY, b"forged", signed(), NOW_S, seen)
    assert not seen
    signature.verify(KEY, BODY, signed(), NOW_S, seen)


def test_ids_are_remembered_while_their_signature_is_valid_and_no_longer() -> None:
    seen: dict[str, float] = {}
    ahead_s = NOW_S + SKEW_S
    signature.verify(KEY, BODY, signed("early", ahead_s), NOW_S, seen)
    with pytest.raises(BadSignature, match="before"):
        signature.verify(KEY, BODY, signed("early", ahead_s), ahead_s + SKEW_S, seen)
    later_s = NOW_S + 2 * SKEW_S + 1
    signature.verify(KEY, BODY, signed("late", later_s), later_s, seen)
    assert seen.keys() == {"late"}


def test_no_error_shows_the_key_or_the_right_signature() -> None:
    headers = signed()
    with pytest.raises(BadSignature) as refused:
        signature.verify(KEY, b"forged", headers, NOW_S, {})
    right = signed(body=b"forged")[SIGNATURE]
    assert right.removeprefix("sha256=") not in str(refused.value)
    assert KEY.decode() not in str(refused.value)
