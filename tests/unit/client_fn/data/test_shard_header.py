"""A shard is checked by its header alone, and the reason for a refusal says what to change."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from broker.messages.errors import BadTensors
from client_fn.data import shard_header

X = np.zeros((5, 2, 3), dtype=np.float32)
Y = np.arange(5)


def made(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def counted(content: bytes) -> int:
    return shard_header.samples(content, len(content))


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


Y_ENTRY = entry("U8", [2], 2, 4)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint8, np.uint16, np.bool_])
def test_labels_of_any_integer_dtype_are_counted(dtype: type[np.generic]) -> None:
    content = safetensors.numpy.save({"x": X, "y": Y.astype(dtype)}, {"sha256": "0"})
    assert counted(content) == 5


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", "int64", "complex64"])
def test_samples_have_any_dtype(dtype: str) -> None:
    assert counted(safetensors.numpy.save({"x": X.astype(dtype), "y": Y})) == 5


@pytest.mark.parametrize(
    "tensors",
    [
        {"x": X},
        {"text": X},
        {"x": X, "y": Y.astype(np.float32)},
        {"x": X, "y": np.zeros((5, 2, 2), dtype=np.uint8)},
        {"ids": X, "mask": Y, "y": Y.reshape(5, 1)},
    ],
)
def test_tensors_have_any_names_shapes_and_dtypes(tensors: dict[str, Any]) -> None:
    assert counted(safetensors.numpy.save(tensors)) == 5


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "it holds no tensors"),
        ({"x": X, "y": np.array(1)}, r"y has shape \(\); the first side of each tensor is the number of samples"),
        ({"x": X, "y": Y[:4]}, "different numbers of samples: x has 5, y has 4"),
        ({"x": X, "y": Y, "not shown": Y[:3]}, "a tensor has 3, x has 5, y has 5"),
        ({"x": X[:0], "y": Y[:0]}, "it is empty: its tensors hold 0 samples"),
        ({"x": np.array(1.0), "y": Y}, r"x has shape \(\)"),
    ],
)
def test_tensors_that_hold_no_samples_are_refused(tensors: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadTensors, match=reason):
        counted(safetensors.numpy.save(tensors))


WHOLE = safetensors.numpy.save({"x": X, "y": Y})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no safetensors file"),
        (b"root:x:0:0:secret", "no safetensors file"),
        (made(b"[]"), "no safetensors file"),
        (made(b'{"x": 1, "x": 2}'), "no safetensors file"),
        (made({"x": {"dtype": "F32"}, "y": {}}), "no safetensors file"),
        (made({"__metadata__": {"a": 1}}), "no safetensors file"),
        (made({"__metadata__": {"a": " " * (64 << 10)}}), "header of at most 64 KiB"),
        (WHOLE[:-1], "is cut off, or something follows"),
        (WHOLE + b"0", "is cut off, or something follows"),
        (made({"x": entry("secret", [2], 0, 2), "y": Y_ENTRY}, b"1234"), "x has an unknown dtype"),
        (made({"x": entry("U8", [2, -1], 0, 2), "y": Y_ENTRY}, b"1234"), "x has an impossible shape"),
        (made({"x": entry("U8", [2] + [1] * 64, 0, 2), "y": Y_ENTRY}, b"1234"), "x has an impossible shape"),
        (made({"x": entry("U8", [2, 2**63, 0], 0, 2), "y": Y_ENTRY}, b"1234"), "x has an impossible shape"),
        (made({"x": entry("U8", [3], 0, 2), "y": Y_ENTRY}, b"1234"), "does not have the bytes"),
        (made({"x": entry("U8", [2], 2, 4), "y": Y_ENTRY}, b"1234"), "overlap"),
        (made({"x": entry("U8", [2], -2, 0), "y": entry("U8", [2], 0, 2)}, b"12"), "overlap"),
        (made({"x": entry("U8", [1], 0, 1), "y": Y_ENTRY}, b"1234"), "bytes between"),
    ],
)
def test_a_malformed_file_is_refused_and_not_quoted(content: bytes, reason: str) -> None:
    with pytest.raises(BadTensors, match=reason) as failed:
        counted(content)
    assert "secret" not in str(failed.value)
    assert str(struct.unpack("<Q", content[:8].ljust(8))[0]) not in str(failed.value)
