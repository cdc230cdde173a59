"""Checks a shard by its safetensors header alone, without torch and without reading the samples."""

import math
from typing import Any, Final

import msgspec

from broker.messages import tensor_header
from broker.messages.errors import BadTensors

INTEGERS: Final = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
"""Accepted dtypes of the labels."""

_SIDES: Final = 64
"""Most dimensions that torch and numpy support."""

_BYTES: Final = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes per element."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor's entry; the offsets are its first byte and the one after its last, from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def samples(content: bytearray) -> int:
    """Return the number of samples in a shard: x (N, ...) of any dtype, and integers y (N,).

    Args:
        content: the safetensors file. Its header may have 64 KiB.

    Raises:
        BadTensors: it is no valid shard. The message holds no text of the file, because it may be another file.
    """
    entries, start = _entries(content)
    if entries.keys() != {"x", "y"}:
        missing = " and ".join(sorted({"x", "y"} - entries.keys()))
        raise BadTensors(f"it has no {missing}" if missing else f"it holds {len(entries)} tensors, not only x and y")
    for name, entry in entries.items():
        _check(name, entry)
    _check_offsets(entries, len(content) - start)
    x, y = entries["x"], entries["y"]
    if y.dtype not in INTEGERS:
        raise BadTensors(f"y has dtype {y.dtype}; whole numbers are wanted, for example I64")
    if len(y.shape) != 1:
        raise BadTensors(f"y has shape {y.shape}; shape (N,) is wanted, one label for each sample")
    if x.shape[:1] != y.shape or not y.shape[0]:
        raise BadTensors(f"x has shape {x.shape} for {y.shape[0]} labels; the first side of x is the number of samples")
    return y.shape[0]


def _entries(content: bytearray) -> tuple[dict[str, _Entry], int]:
    beginning = bytes(content[: 8 + tensor_header.HEADER_CAP])
    try:
        header, start = tensor_header.read(beginning)
        names = header.keys() - {"__metadata__"}
        tensor_header.metadata(header)
        entries: dict[str, Any] = {name: tensor_header.convert(header[name], _Entry) for name in names}
    except BadTensors as exc:
        # The reason shows the first bytes as a number.
        kib = tensor_header.HEADER_CAP >> 10
        raise BadTensors(f"it is no safetensors file with a header of at most {kib} KiB") from exc
    return entries, start


def _check(name: str, entry: _Entry) -> None:
    """Check that a tensor's dtype is known, its shape possible, and its size the product of both."""
    size = _BYTES.get(entry.dtype)
    if size is None:
        raise BadTensors(f"{name} has an unknown dtype; known are {', '.join(_BYTES)}")
    if len(entry.shape) > _SIDES or not all(0 <= side < 1 << 63 for side in entry.shape):
        raise BadTensors(f"{name} has an impossible shape")
    begin, end = entry.data_offsets
    if end - begin != math.prod(entry.shape) * size:
        raise BadTensors(f"{name} does not have the bytes of its shape {entry.shape}")


def _check_offsets(entries: dict[str, _Entry], size: int) -> None:
    """Check that every byte belongs to exactly one tensor."""
    end_before = 0
    for begin, end in sorted(entry.data_offsets for entry in entries.values()):
        if begin != end_before:
            raise BadTensors("there are bytes between its tensors, or they overlap")
        end_before = end
    if end_before != size:
        raise BadTensors(f"its tensors end at byte {end_before} of {size}; the file is cut off, or something follows")
