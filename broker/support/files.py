"""Writes files as a whole."""

import os
import secrets
from pathlib import Path

READABLE = 0o666
"""Permissions of a file that everybody may read whom the umask does not exclude."""


def write(
    path: Path, content: bytes, *, mode: int = READABLE, durable: bool = False, makes_folder: bool = True
) -> None:
    """Write a file as a whole: a reader sees the old content or all of the new one.

    Args:
        path: the file.
        content: its new content.
        mode: the file's permissions, less those that the umask takes.
        durable: return only when the file would survive a loss of power.
        makes_folder: create its folder if it is missing.

    Raises:
        OSError: the file can't be written; what was there before is there still.
    """
    if makes_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    # A file beside it, because a rename works within one file system only.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
