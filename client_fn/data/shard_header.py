"""Checks a shard by its safetensors header alone, without torch and without reading the samples."""

import math
from typing import Any, Final

import msgspec

from broker.messages import tensor_header
from broker.messages.errors import BadTensors

_SIDES: Final = 64
"""Most dimensions that torch and numpy support."""

_NAME: Final = 40
"""Longest name of a tensor in a message, in characters."""

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


def samples(beginning: bytes, size: int) -> int:
    """Return the number of samples in a shard: named tensors of any shapes and dtypes with the same first side.

    Args:
        beginning: the first bytes of the safetensors file, at least `8 + tensor_header.HEADER_CAP` if it has so many.
        size: size of the whole file in bytes.

    Raises:
        BadTensors: it is no valid shard. The message holds no text of the file but tensors' names, because it may be
            another file.
    """
    entries, start = _entries(beginning)
    for name, entry in entries.items():
        _check(_shown(name), entry)
    _check_offsets(entries, size - start)
    if not entries:
        raise BadTensors("it holds no tensors")
    if scalars := [name for name, entry in entries.items() if not entry.shape]:
        raise BadTensors(f"{_shown(scalars[0])} has shape (); the first side of each tensor is the number of samples")
    counts = {_shown(name): entry.shape[0] for name, entry in entries.items()}
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{name} has {count}" for name, count in sorted(counts.items()))
        raise BadTensors(f"its tensors have different numbers of samples: {lengths}")
    count = next(iter(counts.values()))
    if not count:
        raise BadTensors("it is empty: its tensors hold 0 samples")
    return count


def _shown(name: str) -> str:
    return name if name.isidentifier() and len(name) <= _NAME else "a tensor"


def _entries(beginning: bytes) -> tuple[dict[str, _Entry], int]:
    try:
        header, start = tensor_header.read(beginning[: 8 + tensor_header.HEADER_CAP])
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
