"""Signs a trigger, so that a function whose URL is open to everyone runs for its bridge alone.

HMAC-SHA256 (RFC 2104) over the time, the call's id and the digest of the body, as GitHub's and OpenFaaS's own webhooks
do over the body. Verify before anything of the body is parsed.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from broker.messages.errors import BadSignature

CALL_ID: Final = "X-Call-Id"
"""OpenFaaS's own name for it: the gateway passes it on when it is there."""

TIMESTAMP: Final = "X-FedKeeper-Timestamp"
SIGNATURE: Final = "X-FedKeeper-Signature"

SKEW_S: Final = 300.0
"""How far the clocks of bridge and function may be apart, and how long a call's id is remembered."""

_METHOD: Final = "sha256="


def sign(key: bytes, body: bytes, call_id: str, now_s: float) -> dict[str, str]:
    """The headers that go with a body.

    Args:
        key: the secret that bridge and function share.
        body: what is sent.
        call_id: of this call and of no other.
        now_s: seconds since the epoch.
    """
    timestamp = str(int(now_s))
    return {CALL_ID: call_id, TIMESTAMP: timestamp, SIGNATURE: _METHOD + _digest(key, body, call_id, timestamp)}


def verify(key: bytes, body: bytes, headers: Mapping[str, str], now_s: float, seen: dict[str, float]) -> None:
    """Accept a call once.

    Args:
        key: the secret that bridge and function share.
        body: what was received.
        headers: of the call, whatever their case.
        now_s: seconds since the epoch.
        seen: ids of the calls that were accepted, and when; kept by the caller from call to call.

    Raises:
        BadSignature: it is not the bridge's, too old, too new, or was seen before.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    call_id, timestamp, given = (lower.get(name.lower(), "") for name in (CALL_ID, TIMESTAMP, SIGNATURE))
    if not given:
        raise BadSignature("the call is not signed")
    if not hmac.compare_digest(given.encode(), (_METHOD + _digest(key, body, call_id, timestamp)).encode()):
        raise BadSignature("the signature is not the bridge's")
    # A signed timestamp is the bridge's own, so it is a number.
    if abs(now_s - int(timestamp)) > SKEW_S:
        raise BadSignature(f"signed {now_s - int(timestamp):.0f} s ago; are the clocks right?")
    for old in [known for known, when in seen.items() if now_s - when > 2 * SKEW_S]:
        del seen[old]
    if call_id in seen:
        raise BadSignature("this very call was made before")
    seen[call_id] = now_s


def _digest(key: bytes, body: bytes, call_id: str, timestamp: str) -> str:
    signed = f"{timestamp}.{call_id}.{hashlib.sha256(body).hexdigest()}"
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
