"""The codec of every JSON message.

Files that people write are strict; messages that programs send are tolerant: a field that this version does not know is
ignored, so that neighbouring versions work together.
"""

from typing import Any, TypeVar

import msgspec

from broker.errors import UNREADABLE
from broker.messages.errors import DecodeError

T = TypeVar("T")


def encode(message: Any) -> bytes:
    """The JSON of a message; the same message always gives the same bytes."""
    return msgspec.json.encode(message)


def decode(kind: type[T], payload: bytes) -> T:
    """The message in some JSON.

    Args:
        kind: the class of the message.
        payload: what was received.

    Raises:
        DecodeError: it is not such a message.
    """
    try:
        return msgspec.json.decode(payload, type=kind)
    except UNREADABLE as exc:
        raise DecodeError(f"not a valid {kind.__name__}: {exc}") from exc
