"""Bundles: packing, unpacking and malformed bodies."""

import msgspec
import pytest

from broker.messages import bundle
from broker.messages.errors import DecodeError


def body(head: bytes, rest: bytes = b"") -> bytes:
    return len(head).to_bytes(8, "little") + head + rest


@pytest.mark.parametrize(
    "blobs",
    [
        {},
        {"fl.models.job.x": b""},
        {"fl.models.job.x": b"abc", "fl.state.job.c.1.1": b"\x00\xff" * 1000},
        {"fl.b": b"2", "fl.a": b"1"},
    ],
)
def test_a_bundle_comes_back_as_it_was_packed(blobs: dict[str, bytes]) -> None:
    message, unpacked = bundle.unpack(bundle.pack(b'{"attempt": 1}', blobs))
    assert msgspec.json.decode(message) == {"attempt": 1}
    assert unpacked == blobs
    assert list(unpacked) == list(blobs)


def test_the_head_is_small_and_the_blobs_are_not_encoded() -> None:
    blob = bytes(range(256)) * 4096
    packed = bundle.pack(b"{}", {"fl.models.job.x": blob})
    assert packed.endswith(blob)
    assert len(packed) - len(blob) < 100


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x01",
        b"\xff" * 8,
        b"{}",
        b'{"task": {}, "attempt": 1}',
        body(b"{}"),
        body(b"[]"),
        body(b"\xff"),
        body(b'{"message": {}}'),
        body(b'{"message": {}, "blobs": [["t", "3"]]}', b"abc"),
        body(b'{"message": {}, "blobs": [["t", 2]]}', b"abc"),
        body(b'{"message": {}, "blobs": [["t", 4]]}', b"abc"),
        body(b'{"message": {}, "blobs": []}', b"abc"),
        body(b'{"message": {}, "blobs": [["t", -3], ["u", 6]]}', b"abc"),
        body(b'{"message": {}, "blobs": [["t", 9223372036854775807]]}', b"abc"),
        body(b"[" * 100_000),
    ],
)
def test_other_bytes_are_refused(garbage: bytes) -> None:
    with pytest.raises(DecodeError, match="undle"):
        bundle.unpack(garbage)


def test_a_bundle_that_was_cut_off_anywhere_is_refused() -> None:
    packed = bundle.pack(b'{"attempt": 1}', {"fl.models.job.x": b"abc", "fl.state.job.c.1.1": b"de"})
    for end in range(len(packed)):
        with pytest.raises(DecodeError):
            bundle.unpack(packed[:end])
