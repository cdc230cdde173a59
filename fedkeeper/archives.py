"""The archives of the function's code, by the kind of platform that they are for."""

from pathlib import Path

from bridges import platforms
from bridges.errors import BadPlatform, UnknownPlatform
from client_fn import package
from client_fn.data import files


def build(name: str) -> bytes:
    """The archive for a kind of platform, a zip; the same sources give the same bytes.

    Raises:
        UnknownPlatform: there is none for such a kind.
        BadPlatform: the kind names files that are not there.
    """
    kinds = {kind.name: kind for kind in platforms.known() if kind.files}
    if name not in kinds:
        raise UnknownPlatform(name, tuple(kinds))
    kind = kinds[name]
    try:
        return package.build(kind.files, kind.requirements)
    except ModuleNotFoundError as exc:
        raise BadPlatform(name, f"the package {kind.files} of its files is not there: {exc}") from exc


def write(name: str, folder: Path) -> Path:
    """Write the archive for a kind of platform into a folder, which is made if it is not there; returns the file.

    Args:
        name: of the kind.
        folder: where `fedkeeper-NAME.zip` goes.

    Raises:
        UnknownPlatform: there is none for such a kind.
        BadPlatform: the kind names files that are not there.
        OSError: it can't be written.
    """
    path = folder / f"fedkeeper-{name}.zip"
    files.write(path, build(name))
    return path
