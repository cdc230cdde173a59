"""IDX files, the format of MNIST: verified by size and digest, gzipped or not."""

import hashlib
import math
import struct
import zlib
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from client_fn.errors import BadData

Bytes = NDArray[np.uint8]

_MAGIC: Final = bytes((0, 0, 0x08))
"""Two zeros, and the code for bytes: the only type that MNIST has. The number of dimensions follows."""


class File(NamedTuple):
    """One file of a dataset; size and SHA-256 are those of its uncompressed content."""

    name: str
    bytes: int
    sha256: str


def verified(where: str, raw: bytes, file: File) -> bytes:
    """The uncompressed content of a file.

    Args:
        where: path or URL, for the error message.
        raw: the file as it is, gzipped or not.
        file: what it should be.

    Raises:
        BadData: it is something else.
    """
    content = _uncompressed(where, raw, file.bytes)
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise _bad(where, f"its content has SHA-256 {digest} instead of {file.sha256}")
    return content


def parse(where: str, content: bytes) -> Bytes:
    """The array in an IDX file (http://yann.lecun.com/exdb/mnist/ describes the format).

    Raises:
        BadData: it is none.
    """
    if len(content) < 4 or content[:3] != _MAGIC:  # noqa: PLR2004 (magic number and number of dimensions)
        raise _bad(where, "it is no IDX file of bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise _bad(where, "it ends within its header")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if len(values) != math.prod(shape):
        raise _bad(where, f"it has {len(values)} values for shape {shape}")
    return values.reshape(shape)


def _uncompressed(where: str, raw: bytes, size: int) -> bytes:
    """At most one byte more than expected, whatever a compressed file holds."""
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(raw, size + 1)
    except zlib.error as exc:
        raise _bad(where, f"it can't be uncompressed: {exc}") from exc


def _bad(where: str, reason: str) -> BadData:
    return BadData(where, reason, "delete it and fetch it again")
