"""A message and the blobs that it names, in one body: for a function that has no route to the broker.

Eight bytes (little endian) that say how long the head is, the head in JSON, the blobs one after the other.
"""

from typing import Final

import msgspec

from broker.messages import codec
from broker.messages.errors import DecodeError

CONTENT_TYPE: Final = "application/vnd.fedkeeper.parcel"

_LENGTH: Final = 8


class _Parcel(msgspec.Struct, frozen=True):
    message: msgspec.Raw
    blobs: tuple[tuple[str, int], ...]


def pack(message: bytes, blobs: dict[str, bytes]) -> bytes:
    """Put a JSON message and blobs, by topic, into one body."""
    sizes = tuple((topic, len(blob)) for topic, blob in blobs.items())
    head = codec.encode(_Parcel(msgspec.Raw(message), sizes))
    return b"".join((len(head).to_bytes(_LENGTH, "little"), head, *blobs.values()))


def unpack(body: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The message and the blobs of a body.

    Raises:
        DecodeError: it is none.
    """
    end = _LENGTH + int.from_bytes(body[:_LENGTH], "little")
    head = codec.decode(_Parcel, body[_LENGTH:end])
    blobs: dict[str, bytes] = {}
    for topic, size in head.blobs:
        blobs[topic] = body[end : end + size]
        end += size
    if end != len(body) or any(size < 0 for _, size in head.blobs):
        raise DecodeError(f"a parcel of {len(body)} bytes that should have {end}")
    return bytes(head.message), blobs
