"""Sizes in bytes, as people read them: decimal units, as in `--keep-bytes`."""

from pathlib import Path
from typing import Final

_UNITS: Final = ("kB", "MB", "GB", "TB")
_STEP: Final = 1000


def text(size: float) -> str:
    """Return a number of bytes in words, such as `1.5 MB`."""
    if size < _STEP:
        return f"{size:.0f} bytes"
    for unit in _UNITS:
        size /= _STEP
        if size < _STEP or unit == _UNITS[-1]:
            break
    return f"{size:.1f} {unit}"


def of_folder(folder: Path) -> int:
    """Return what the files in a folder and below take, in bytes. A file that goes meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.lstat().st_size if file.is_file() and not file.is_symlink() else 0
        except OSError:
            continue
    return total
