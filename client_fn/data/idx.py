"""Reads IDX files, the format of MNIST, gzipped or not, and verifies their size and digest."""

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
"""Two zeros and the type code of unsigned bytes, MNIST's only type. The number of dimensions follows."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


class File(NamedTuple):
    """A dataset's file.

    Attributes:
        name: the file's name without `.gz`.
        bytes: size of the uncompressed content.
        sha256: digest of the uncompressed content, 64 hexadecimal digits.
    """

    name: str
    bytes: int
    sha256: str


def decompress(where: str, raw: bytes, file: File) -> bytes:
    """Return the verified, uncompressed content of a file.

    Args:
        where: path or URL, for the error message.
        raw: the file's bytes, gzipped or not.
        file: the expected size and digest.

    Raises:
        BadData: the content is not the expected one, or can't be uncompressed.
    """
    content = raw
    if raw.startswith(_GZIP_MAGIC):
        try:
            # At most one byte more than expected: a small compressed file may hold gigabytes.
            content = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(raw, file.bytes + 1)
        except zlib.error as exc:
            raise _bad(where, f"it can't be uncompressed: {exc}") from exc
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise _bad(where, f"its content has SHA-256 {digest} instead of {file.sha256}")
    return content


def parse(where: str, content: bytes) -> Bytes:
    """Return the array in an IDX file (http://yann.lecun.com/exdb/mnist/ describes the format).

    Args:
        where: path or URL, for the error message.
        content: the uncompressed file.

    Raises:
        BadData: the content is not an IDX file of bytes.
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


def _bad(where: str, reason: str) -> BadData:
    return BadData(f"{where}: {reason}; delete it and fetch it again", where=where, reason=reason)
