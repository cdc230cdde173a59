"""Packs a message and the blobs that it names into one body, for a function that cannot reach the broker.

Layout: the length of the head in 8 bytes (little endian), the head in JSON, then the blobs one after the other.
"""

from typing import Final

import msgspec

from broker.messages import codec
from broker.messages.errors import DecodeError

CONTENT_TYPE: Final = "application/vnd.fedkeeper.parcel"
"""Media type of a bundle. The word is that of version 0.1; a deployed function compares it."""

_LENGTH_BYTES: Final = 8


class _Bundle(msgspec.Struct, frozen=True):
    """The head: the message, and the topic and size of each blob."""

    message: msgspec.Raw
    blobs: tuple[tuple[str, int], ...]


def pack(message: bytes, blobs: dict[str, bytes]) -> bytes:
    """Pack a message and blobs into one body.

    Args:
        message: the message in JSON.
        blobs: the blobs by topic; `unpack` keeps their order.
    """
    sizes = tuple((topic, len(blob)) for topic, blob in blobs.items())
    head = codec.encode(_Bundle(msgspec.Raw(message), sizes))
    return b"".join((len(head).to_bytes(_LENGTH_BYTES, "little"), head, *blobs.values()))


def unpack(body: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Return the message and the blobs of a body.

    Raises:
        DecodeError: the body is not a bundle.
    """
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    head = codec.decode(_Bundle, body[_LENGTH_BYTES:end])
    blobs: dict[str, bytes] = {}
    for topic, size in head.blobs:
        blobs[topic] = body[end : end + size]
        end += size
    if end != len(body) or any(size < 0 for _, size in head.blobs):
        raise DecodeError(f"a bundle of {len(body)} bytes that should have {end}")
    return bytes(head.message), blobs
