"""The archive of the function's code for a platform: our packages, and the platform's own files beside them."""

import importlib.resources
import io
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from typing import Final

_REQUIREMENTS: Final = "requirements.txt"

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644 << 16


def build(files: str, requirements: str = _REQUIREMENTS) -> bytes:
    """A platform's archive, a zip; the same sources give the same bytes.

    Args:
        files: the package with the platform's own files, such as `client_fn.packages.gcf`; its `requirements.txt` is
            added to what the function needs everywhere.
        requirements: where the archive lists what must be installed.

    Raises:
        ModuleNotFoundError: there is no such package.
    """
    contents = dict(_code("broker")) | dict(_code("client_fn")) | dict(_own(files, requirements))
    archive = io.BytesIO()
    # Not deflated: zlib's output differs from version to version, and functions are told apart by these bytes' digest.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, _MODE
            made.writestr(entry, contents[name])
    return archive.getvalue()


def _code(package: str) -> Iterator[tuple[str, bytes]]:
    """A package's modules and those of the packages in it, but for the platforms' own files."""
    for name, content in _files(importlib.resources.files(package)):
        if name.endswith(".py") and not name.startswith("packages/"):
            yield f"{package}/{name}", content


def _own(package: str, requirements: str) -> Iterator[tuple[str, bytes]]:
    own = dict(_files(importlib.resources.files(package)))
    # It makes the folder a package of its checkout, and is none of the platform's files.
    own.pop("__init__.py", None)
    everywhere = importlib.resources.files("client_fn") / "packages" / _REQUIREMENTS
    yield requirements, everywhere.read_bytes() + own.pop(_REQUIREMENTS, b"")
    yield from own.items()


def _files(folder: Traversable, inside: str = "") -> Iterator[tuple[str, bytes]]:
    for file in folder.iterdir():
        if file.is_dir() and file.name != "__pycache__":
            yield from _files(file, f"{inside}{file.name}/")
        elif file.is_file():
            yield f"{inside}{file.name}", file.read_bytes()
