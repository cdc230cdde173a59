"""Files that are never seen half written, and folders that can be written before anything depends on it."""

import contextlib
import tempfile
from pathlib import Path

from broker.support import files
from fedkeeper.errors import BadOption, NotSaved


def write(path: Path, content: bytes) -> None:
    """Write a file as a whole: a crash or a full disk leaves what was there before.

    Args:
        path: the file; its folder exists.
        content: the new content.

    Raises:
        NotSaved: it can't be written; nothing has changed.
    """
    try:
        files.write(path, content, durable=True, makes_folder=False)
    except OSError as exc:
        raise NotSaved(path, exc.strerror or str(exc)) from exc


def size_of(folder: Path) -> int:
    """Return what the files in a folder and below take, in bytes. A file that goes meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.lstat().st_size if file.is_file() and not file.is_symlink() else 0
    return total


def check_folder(folder: Path, option: str) -> None:
    """Check that files can be written into a folder, which is created if it is missing.

    Args:
        folder: the folder.
        option: the option that names it, such as `--out`.

    Raises:
        BadOption: it is no folder, or can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # An empty file fits on a full disk.
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as exc:
        wrong = next((part for part in (folder, *folder.parents) if part.is_file()), None)
        reason = f"nothing can be written there: {exc.strerror}" if wrong is None else f"{wrong} is a file"
        raise BadOption(f"{option} {folder}: {reason}; give another folder") from exc
