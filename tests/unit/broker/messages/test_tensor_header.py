"""Metadata is put into a safetensors file whose tensors nobody reads."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from broker.messages import tensor_header, tensors
from broker.messages.errors import BadTensors
from broker.messages.tensors import Tensors

ARRAYS: Tensors = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(5, np.int64),
    "empty": np.zeros(0),
}


@pytest.mark.parametrize("old", [None, {"token": "another's", "more": "x"}])
@pytest.mark.parametrize("new", [{}, {"token": "t0ken"}, {"text": "ü" * 1000 + "\n\0"}])
def test_the_metadata_is_replaced_and_the_tensors_stay(old: dict[str, str] | None, new: dict[str, str]) -> None:
    payload = tensor_header.with_metadata(safetensors.numpy.save(ARRAYS, old), new)
    decoded, metadata = tensors.decode(payload)
    assert metadata == new
    assert {name: array.tobytes() for name, array in decoded.items()} == {
        name: array.tobytes() for name, array in ARRAYS.items()
    }
    assert safetensors.numpy.load(payload).keys() == ARRAYS.keys()
    assert (8 + struct.unpack_from("<Q", payload)[0]) % 8 == 0


def test_the_same_input_gives_the_same_bytes() -> None:
    payload = safetensors.numpy.save(ARRAYS)
    table = {f"key {i}": str(i) for i in range(50)}
    assert tensor_header.with_metadata(payload, table) == tensor_header.with_metadata(payload, table)


def test_a_file_without_tensors_is_a_file_too() -> None:
    assert tensors.decode(tensor_header.with_metadata(safetensors.numpy.save({}), {"a": "b"})) == ({}, {"a": "b"})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x" * 7,
        b"garbage of the user's code",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"\xff\xff",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        struct.pack("<Q", len(b'{"a":1,"a":2}')) + b'{"a":1,"a":2}',
        struct.pack("<Q", len(json.dumps({"\ud800": 1}))) + json.dumps({"\ud800": 1}).encode(),
        struct.pack("<Q", 9 << 20) + b" " * (9 << 20),
    ],
    ids=["empty", "short", "text", "huge", "cut", "list", "no text", "deep", "twice", "surrogate", "9 MiB"],
)
def test_what_is_no_file_of_tensors_is_refused(payload: bytes) -> None:
    with pytest.raises(BadTensors):
        tensor_header.with_metadata(payload, {})
