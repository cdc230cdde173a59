"""Memory that the worker shares with its trainer, read-only, so that tensors are not copied through a pipe."""

import fcntl
import io
import os
from collections.abc import Iterable
from typing import Final

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""Whoever holds the descriptor can only read (memfd_create(2), fcntl(2))."""

_PART: Final = 16 << 20
"""Bytes per read."""


class SharedBytes:
    """Bytes in sealed memory. The trainer gets the descriptor and can't change what other clients will read.

    Args:
        content: the bytes; copied once.

    Attributes:
        descriptor: open until this object is deleted.
        size: number of bytes.
    """

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        self.descriptor = os.memfd_create("fedkeeper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.size = len(content)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(self.descriptor, left) :]
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(self.descriptor)
            raise

    @classmethod
    def of_file(cls, descriptor: int) -> "SharedBytes":
        """Share an open file instead of memory: it is not copied, and the trainer maps it.

        Args:
            descriptor: opened for reading only. It is closed with the object.
        """
        shared = cls.__new__(cls)
        shared.descriptor = descriptor
        shared.size = os.fstat(descriptor).st_size
        return shared

    def __del__(self) -> None:
        if hasattr(self, "size"):
            os.close(self.descriptor)


def is_quick(descriptors: Iterable[int]) -> bool:
    """Return whether to read all takes milliseconds: they are memory, which alone has seals (fcntl(2)), and small."""
    size = 0
    for descriptor in descriptors:
        try:
            fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            return False
        size += os.fstat(descriptor).st_size
    return size <= _PART


def read(descriptor: int, at_most: int) -> bytes:
    """Return what the trainer wrote into shared memory. It is copied: the trainer may still write.

    Args:
        descriptor: the memory.
        at_most: largest accepted size in bytes.

    Raises:
        ValueError: there are more bytes.
        OSError: the descriptor is no memory or file.
    """
    size = os.fstat(descriptor).st_size
    if size > at_most:
        raise ValueError(f"{size} bytes, at most {at_most} are accepted")
    if size <= _PART:
        return os.pread(descriptor, size, 0)
    content = io.BytesIO()
    while content.tell() < size and (part := os.pread(descriptor, min(_PART, size - content.tell()), content.tell())):
        content.write(part)
    return content.getvalue()  # shares the buffer: nothing is copied
