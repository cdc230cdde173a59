"""Builds the archive of the function's code for each kind of platform."""

from pathlib import Path

from bridges import platforms
from bridges.errors import BadPlatform, UnknownPlatform
from broker.support import files
from client_fn import package
from client_fn.code.archive import Archive


def build(name: str, code: Archive | None = None) -> bytes:
    """Build the archive for a kind of platform: a zip file. The same sources give the same bytes.

    Args:
        name: the kind's name.
        code: the user's code; None: there is none.

    Raises:
        BadCode: a line of the code's requirements.txt can't be used in an archive.
        UnknownPlatform: no kind of that name has an archive.
        BadPlatform: the package that should hold the kind's files does not exist.
    """
    kinds = {kind.name: kind for kind in platforms.known() if kind.files}
    if name not in kinds:
        raise UnknownPlatform(name, tuple(kinds))
    kind = kinds[name]
    try:
        return package.build(kind.files, kind.requirements, code)
    except ModuleNotFoundError as exc:
        raise BadPlatform(name, f"the package {kind.files} of its files is not there: {exc}") from exc


def write(name: str, folder: Path, code: Archive | None = None) -> Path:
    """Write the archive for a kind of platform and return its path.

    Args:
        name: the kind's name.
        folder: where `fedkeeper-NAME.zip` is written; created if it does not exist.
        code: the user's code; None: there is none.

    Raises:
        BadCode: a line of the code's requirements.txt can't be used in an archive.
        UnknownPlatform: no kind of that name has an archive.
        BadPlatform: the package that should hold the kind's files does not exist.
        OSError: the file can't be written.
    """
    path = folder / f"fedkeeper-{name}.zip"
    files.write(path, build(name, code))
    return path
