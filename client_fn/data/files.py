"""Writes files atomically."""

import os
import tempfile
from pathlib import Path


def write(path: Path, content: bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Write a file atomically, and create its folder: a reader sees the old content or all of the new one.

    Args:
        path: the file.
        content: its new content.
        mode: the file's permissions.
        durable: return only when the file would survive a loss of power.

    Raises:
        OSError: the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
