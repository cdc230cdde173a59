"""Tensors <-> bytes: safetensors, read by a gate of our own.

The safetensors library accepts duplicate keys, and takes seconds for a header of a million empty tensors
(https://github.com/huggingface/safetensors#format describes the format). So the header is capped before it is parsed,
and what it says is compared with what was expected before a tensor is touched. bfloat16 comes from ml_dtypes.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

import ml_dtypes
import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from broker.messages.errors import BadTensors

Array = NDArray[Any]
Tensors = dict[str, Array]
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""What a file holds: name -> (safetensors dtype, shape)."""

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES: Final = {dtype: code for code, dtype in DTYPES.items()}

FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})

HEADER_CAP: Final = 64 << 10
"""Bytes of header that are always accepted; a larger one only if as many tensors are expected."""

_HEADER_BYTES_PER_TENSOR: Final = 512


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def encode(tensors: Mapping[str, Array]) -> bytes:
    """A safetensors file without metadata: the same tensors always give the same bytes."""
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in tensors.items()})


def layout(tensors: Mapping[str, Array]) -> Layout:
    """What `encode` would write."""
    return {name: (_CODES[array.dtype], array.shape) for name, array in tensors.items()}


def decode(payload: bytes, *, expected: int = 0) -> tuple[Tensors, dict[str, str]]:
    """A file's tensors, as views of the payload's memory, and its metadata.

    Args:
        payload: the file.
        expected: how many tensors it should hold; a header that is far too large for so many is not parsed.

    Raises:
        BadTensors: it is malformed in any way, has a duplicate name, a dtype that is not ours, or too large a header.
    """
    header, start = _header(payload, max(HEADER_CAP, _HEADER_BYTES_PER_TENSOR * expected))
    metadata = _converted(header.pop("__metadata__", {}), dict[str, str])
    entries = {name: _converted(entry, _Entry) for name, entry in header.items()}
    _check_offsets(entries, len(payload) - start)
    return {name: _view(payload, start, name, entry) for name, entry in entries.items()}, metadata


def _header(payload: bytes, cap: int) -> tuple[dict[str, Any], int]:
    if len(payload) < 8:  # noqa: PLR2004 (the length field itself)
        raise BadTensors(f"a file of {len(payload)} bytes is no safetensors file")
    (size,) = struct.unpack_from("<Q", payload)
    if size > min(cap, len(payload) - 8):
        raise BadTensors(f"its header claims {size} bytes, at most {min(cap, len(payload) - 8)} are accepted")
    return _parsed(payload[8 : 8 + size]), 8 + size


def _parsed(text: bytes) -> dict[str, Any]:
    """The header's JSON object; the decoder of the standard library is the one that shows duplicate keys."""
    try:
        header = _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as exc:
        raise BadTensors(f"its header is unreadable: {exc}") from exc
    if not isinstance(header, dict):
        raise BadTensors("its header is no JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands in it twice")
    # A lone surrogate ("\\ud800") is legal JSON and no text: whoever encodes it later would fail.
    "".join(text for pair in pairs for text in pair if isinstance(text, str)).encode()
    return table


def _converted(value: object, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise BadTensors(f"its header is malformed: {exc}") from exc


def _check_offsets(entries: Mapping[str, _Entry], size: int) -> None:
    """Every byte belongs to exactly one tensor: no holes, no overlaps, nothing behind the last one."""
    at = 0
    for begin, end in sorted(entry.data_offsets for entry in entries.values()):
        if begin != at or end < begin:
            raise BadTensors(f"a tensor begins at byte {begin}, the one before it ended at {at}")
        at = end
    if at != size:
        raise BadTensors(f"its tensors end at byte {at} of {size}")


def _view(payload: bytes, start: int, name: str, entry: _Entry) -> Array:
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise BadTensors(f"{name} has dtype {entry.dtype}, known are {', '.join(DTYPES)}")
    begin, end = entry.data_offsets
    count = _elements(name, entry.shape)
    if count * dtype.itemsize != end - begin:
        raise BadTensors(f"{name} has {end - begin} bytes for shape {entry.shape} of {entry.dtype}")
    if dtype == np.bool_ and np.frombuffer(payload, np.uint8, count, start + begin).max(initial=0) > 1:
        raise BadTensors(f"{name} holds a BOOL that is neither 0 nor 1")
    try:
        return np.frombuffer(payload, dtype, count, start + begin).reshape(entry.shape)
    except ValueError as exc:
        # More dimensions than numpy has, or empty with sides that overflow.
        raise BadTensors(f"{name} has an impossible shape: {exc}") from exc


def _elements(name: str, shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        if side < 0:
            raise BadTensors(f"{name} has shape {shape}")
        count *= side
    return count


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_without_duplicates)
