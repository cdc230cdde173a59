"""The header of a safetensors file, read without numpy: what one who passes an update on needs to know of it."""

import json
import struct
from typing import Any, Final

import msgspec

from broker.messages.errors import BadTensors

HEADER_CAP: Final = 64 << 10
"""Bytes of header that are always accepted; a larger one only if as many tensors are expected."""

_BYTES_PER_TENSOR: Final = 512


def read(payload: bytes, *, expected: int = 0) -> tuple[dict[str, Any], int]:
    """The header's entries by name, and where the tensors begin; none of them is looked at.

    Args:
        payload: the file.
        expected: how many tensors it should hold; a header that is far too large for so many is not parsed.

    Raises:
        BadTensors: it is unreadable, has a duplicate name, or is too large.
    """
    cap = max(HEADER_CAP, _BYTES_PER_TENSOR * expected)
    if len(payload) < 8:  # noqa: PLR2004 (the length field itself)
        raise BadTensors(f"a file of {len(payload)} bytes is no safetensors file")
    (size,) = struct.unpack_from("<Q", payload)
    if size > min(cap, len(payload) - 8):
        raise BadTensors(f"its header claims {size} bytes, at most {min(cap, len(payload) - 8)} are accepted")
    return _parsed(payload[8 : 8 + size]), 8 + size


def metadata(header: dict[str, Any]) -> dict[str, str]:
    """What the file says of itself.

    Raises:
        BadTensors: that is no table of texts.
    """
    found: dict[str, str] = converted(header.get("__metadata__", {}), dict[str, str])
    return found


def converted(value: object, kind: Any) -> Any:
    """A part of the header as the type that it should be.

    Raises:
        BadTensors: it is of another one.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise BadTensors(f"its header is malformed: {exc}") from exc


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


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_without_duplicates)
