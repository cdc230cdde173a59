"""Reads the header of a safetensors file without numpy, for programs that forward updates."""

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from broker.messages.errors import BadTensors

HEADER_CAP: Final = 64 << 10
"""Largest header that is always accepted, in bytes. A larger one needs a larger number of expected tensors."""

_BYTES_PER_TENSOR: Final = 512

MAX_TENSORS: Final = 1 << 14
"""Largest number of tensors that a reader accepts who does not know the model."""


def read(payload: bytes, *, expected: int = 0) -> tuple[dict[str, Any], int]:
    """Return the header's entries by name, and the offset of the tensors. The tensors are not read.

    Args:
        payload: the file.
        expected: expected number of tensors; a header that is far too large for this number is not parsed.

    Raises:
        BadTensors: the header is unreadable, has a duplicate name, or is too large.
    """
    cap = max(HEADER_CAP, _BYTES_PER_TENSOR * expected)
    if len(payload) < 8:  # noqa: PLR2004 (the length field itself)
        raise BadTensors(f"a file of {len(payload)} bytes is no safetensors file")
    (size,) = struct.unpack_from("<Q", payload)
    if size > min(cap, len(payload) - 8):
        raise BadTensors(f"its header claims {size} bytes, at most {min(cap, len(payload) - 8)} are accepted")
    return _parse_header(payload[8 : 8 + size]), 8 + size


def with_metadata(payload: bytes, table: Mapping[str, str]) -> bytes:
    """Return a safetensors file with another metadata table. The tensors are copied and not checked.

    Args:
        payload: the file.
        table: the new metadata.

    Raises:
        BadTensors: the header is unreadable, or larger than 8 MiB.
    """
    header, start = read(payload, expected=MAX_TENSORS)
    text = msgspec.json.encode({**header, "__metadata__": dict(table)})
    # The tensors begin at a multiple of 8 bytes; the format allows spaces after the header.
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, memoryview(payload)[start:]))


def metadata(header: dict[str, Any]) -> dict[str, str]:
    """Return the metadata in a header.

    Raises:
        BadTensors: the metadata is not a table of texts.
    """
    table: dict[str, str] = convert(header.get("__metadata__", {}), dict[str, str])
    return table


def convert(value: object, kind: Any) -> Any:
    """Convert a part of a header to its type.

    Args:
        value: decoded JSON.
        kind: the type.

    Raises:
        BadTensors: the value does not fit the type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise BadTensors(f"its header is malformed: {exc}") from exc


def _parse_header(text: bytes) -> dict[str, Any]:
    """Parse the JSON object with the standard library's decoder, because it reports duplicate keys."""
    try:
        header = _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as exc:
        raise BadTensors(f"its header is unreadable: {exc}") from exc
    if not isinstance(header, dict):
        raise BadTensors("its header is no JSON object")
    return header


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands in it twice")
    # A lone surrogate ("\\ud800") is legal JSON, but encoding it as UTF-8 fails; find it now.
    "".join(text for pair in pairs for text in pair if isinstance(text, str)).encode()
    return table


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_refuse_duplicates)
