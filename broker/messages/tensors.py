"""Encodes tensors as safetensors files, and decodes untrusted files strictly.

The safetensors library accepts duplicate keys, and takes seconds for a header of a million empty tensors
(https://github.com/huggingface/safetensors#format describes the format). So `broker.messages.tensor_header` limits the
header's size before parsing it, and `decode` checks every entry before it reads a tensor. ml_dtypes adds bfloat16.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.messages import tensor_header
from broker.messages.errors import BadTensors

Array = NDArray[Any]
Tensors = dict[str, Array]
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""The tensors of a file without their values: name -> (safetensors dtype, shape)."""

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

_FILE_ORDER: Final = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")
"""The order of tensors in a file: by dtype, then by name. The format asks for alignment, so wide dtypes come first."""

_ALIGNMENT: Final = 8

FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor's entry in the header; the offsets are its first byte and the one after its last."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def encode(tensors: Mapping[str, Array]) -> bytes:
    """Encode tensors as a safetensors file without metadata. Equal tensors give equal bytes.

    The file is the one that `safetensors.numpy.save` makes, which needs a copy of every tensor beside it.
    """
    arrays = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    arrays = dict(sorted(arrays.items(), key=lambda item: _FILE_ORDER.index(_CODES[item[1].dtype])))
    entries, end = dict[str, _Entry](), 0
    for name, (dtype, shape) in layout(arrays).items():
        begin, end = end, end + arrays[name].nbytes
        entries[name] = _Entry(dtype, shape, (begin, end))
    header = msgspec.json.encode(entries)
    header += b" " * (-len(header) % _ALIGNMENT)
    contents = (array.reshape(-1).view(np.uint8).data for array in arrays.values())
    return b"".join((len(header).to_bytes(8, "little"), header, *contents))


def layout(tensors: Mapping[str, Array]) -> Layout:
    """Return the layout of the file that `encode` would write."""
    return {name: (_CODES[array.dtype], array.shape) for name, array in tensors.items()}


def decode(payload: bytes, *, expected: int = tensor_header.MAX_TENSORS) -> tuple[Tensors, dict[str, str]]:
    """Return a file's tensors, as read-only views of the payload's memory, and its metadata.

    Args:
        payload: the file.
        expected: expected number of tensors, if a stranger has written the file; a header that is far too large for
            this number is not parsed.

    Raises:
        BadTensors: the file is malformed, or has a duplicate name, an unknown dtype, or too large a header.
    """
    header, start = tensor_header.read(payload, expected=expected)
    metadata = tensor_header.metadata(header)
    entries = {name: tensor_header.convert(entry, _Entry) for name, entry in header.items() if name != "__metadata__"}
    _check_offsets(entries, len(payload) - start)
    return {name: _view(payload, start, name, entry) for name, entry in entries.items()}, metadata


def _check_offsets(entries: Mapping[str, _Entry], size: int) -> None:
    """Check that every byte belongs to exactly one tensor: no holes, no overlaps, nothing after the last tensor."""
    previous_end = 0
    for begin, end in sorted(entry.data_offsets for entry in entries.values()):
        if begin != previous_end or end < begin:
            raise BadTensors(f"a tensor begins at byte {begin}, the one before it ended at {previous_end}")
        previous_end = end
    if previous_end != size:
        raise BadTensors(f"its tensors end at byte {previous_end} of {size}")


def _view(payload: bytes, start: int, name: str, entry: _Entry) -> Array:
    """Return one tensor as a view of the payload, whose tensors begin at `start`."""
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise BadTensors(f"{name} has dtype {entry.dtype}, known are {', '.join(DTYPES)}")
    begin, end = entry.data_offsets
    if any(side < 0 for side in entry.shape):
        raise BadTensors(f"{name} has shape {entry.shape}")
    count = math.prod(entry.shape)
    if count * dtype.itemsize != end - begin:
        raise BadTensors(f"{name} has {end - begin} bytes for shape {entry.shape} of {entry.dtype}")
    if dtype == np.bool_ and np.frombuffer(payload, np.uint8, count, start + begin).max(initial=0) > 1:
        raise BadTensors(f"{name} holds a BOOL that is neither 0 nor 1")
    try:
        return np.frombuffer(payload, dtype, count, start + begin).reshape(entry.shape)
    except ValueError as exc:
        # More dimensions than numpy supports, or an empty tensor with sides that overflow.
        raise BadTensors(f"{name} has an impossible shape: {exc}") from exc
