"""Signs triggers, so that a function with a public URL runs only for its bridge.

A signature is the HMAC-SHA256 (RFC 2104) of the time, the call's id and the body's digest; GitHub's and OpenFaaS's
webhooks sign the body in the same way. Call `verify` before parsing the body.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from broker.messages.errors import BadSignature

CALL_ID: Final = "X-Call-Id"
"""OpenFaaS's own header for the id of a call: the gateway forwards it."""

TIMESTAMP: Final = "X-FedKeeper-Timestamp"
SIGNATURE: Final = "X-FedKeeper-Signature"

SKEW_S: Final = 300.0
"""Largest difference between the clocks of bridge and function, in seconds. Ids are remembered for twice as long."""

_METHOD: Final = "sha256="


def sign(key: bytes, body: bytes, call_id: str, now_s: float) -> dict[str, str]:
    """Return the headers that sign a call.

    Args:
        key: the secret that bridge and function share.
        body: the call's body.
        call_id: unique id of the call.
        now_s: the current time, in seconds since the epoch.
    """
    timestamp = str(int(now_s))
    return {CALL_ID: call_id, TIMESTAMP: timestamp, SIGNATURE: _METHOD + _digest(key, body, call_id, timestamp)}


def verify(key: bytes, body: bytes, headers: Mapping[str, str], now_s: float, seen: dict[str, float]) -> None:
    """Check the signature of a call, and accept each call only once.

    Args:
        key: the secret that bridge and function share.
        body: the call's body.
        headers: the call's headers; upper and lower case are equal.
        now_s: the current time, in seconds since the epoch.
        seen: time of acceptance of each accepted call, by its id. The caller keeps this table between calls.

    Raises:
        BadSignature: the bridge did not sign the call, it is too old or too new, or it was made before.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    call_id, timestamp, given = (lower.get(name.lower(), "") for name in (CALL_ID, TIMESTAMP, SIGNATURE))
    if not given:
        raise BadSignature("the call is not signed")
    if not hmac.compare_digest(given.encode(), (_METHOD + _digest(key, body, call_id, timestamp)).encode()):
        raise BadSignature("the signature is not the bridge's")
    # The signature is valid, so the timestamp is the bridge's, and a number.
    if abs(now_s - int(timestamp)) > SKEW_S:
        raise BadSignature(f"signed {now_s - int(timestamp):.0f} s ago; are the clocks right?")
    for old_id in [seen_id for seen_id, seen_s in seen.items() if now_s - seen_s > 2 * SKEW_S]:
        del seen[old_id]
    if call_id in seen:
        raise BadSignature("this very call was made before")
    seen[call_id] = now_s


def _digest(key: bytes, body: bytes, call_id: str, timestamp: str) -> str:
    signed = f"{timestamp}.{call_id}.{hashlib.sha256(body).hexdigest()}"
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
