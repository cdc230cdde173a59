"""Notices that the disk of our own nats-server was full and has room again.

After an error of the file system, a stream of nats-server 2.15 stores nothing until the server is restarted, even if
there is room again. It sends no error to the publisher either.
"""

import enum
from typing import Final

FULL_BYTES: Final = 16 << 20
"""With less free space, a message of 8 MB may have failed."""

ROOM_BYTES: Final = 64 << 20


class Change(enum.Enum):
    """What has happened to a disk."""

    NONE = enum.auto()
    FULL = enum.auto()
    ROOM_AGAIN = enum.auto()


class Disk:
    """The free space of a disk over time.

    Attributes:
        is_full: whether it was full and has not had room since.
    """

    def __init__(self) -> None:
        self.is_full = False

    def update(self, free_bytes: int) -> Change:
        """Take the free space in bytes, and return what has changed."""
        if not self.is_full and free_bytes < FULL_BYTES:
            self.is_full = True
            return Change.FULL
        if self.is_full and free_bytes > ROOM_BYTES:
            self.is_full = False
            return Change.ROOM_AGAIN
        return Change.NONE
