"""The archive of the function's code for each platform: our packages, and the platform's own files beside them."""

import importlib.resources
import io
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from client_fn.data import files
from client_fn.errors import UnknownPlatform

PLATFORMS: Final = ("openfaas", "openwhisk", "gcf")

_REQUIREMENTS: Final = "requirements.txt"

_WHERE_REQUIRED: Final = {"openwhisk": f"image/{_REQUIREMENTS}"}
"""Where an archive says what it needs installed; OpenWhisk would install it anew at every cold start."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644 << 16


def build(platform: str) -> bytes:
    """A platform's archive, a zip; the same sources give the same bytes.

    Args:
        platform: `openfaas`, the context of a container image's build; `openwhisk`, an action's code, with the image
            that it needs in a folder; `gcf`, a function's source.

    Raises:
        UnknownPlatform: it is another one.
    """
    if platform not in PLATFORMS:
        raise UnknownPlatform(platform, PLATFORMS)
    contents = dict(_code("broker")) | dict(_code("client_fn")) | dict(_templates(platform))
    archive = io.BytesIO()
    # Not deflated: zlib's output differs from version to version, and functions are told apart by these bytes' digest.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, _MODE
            made.writestr(entry, contents[name])
    return archive.getvalue()


def write(platform: str, folder: Path) -> Path:
    """Write a platform's archive into a folder, which is made if it is not there; returns the file.

    Raises:
        UnknownPlatform: there is none for that platform.
        OSError: it can't be written.
    """
    path = folder / f"fedkeeper-{platform}.zip"
    files.write(path, build(platform))
    return path


def _code(package: str) -> Iterator[tuple[str, bytes]]:
    """A package's modules and those of the packages in it, but for the platforms' own files."""
    for name, content in _files(importlib.resources.files(package)):
        if name.endswith(".py") and not name.startswith("packages/"):
            yield f"{package}/{name}", content


def _templates(platform: str) -> Iterator[tuple[str, bytes]]:
    """Its own files; what it needs installed is added to what the function needs everywhere."""
    folder = importlib.resources.files("client_fn") / "packages"
    own = dict(_files(folder / platform))
    # It makes the folder a package of this checkout, and is none of the platform's files.
    del own["__init__.py"]
    required = (folder / _REQUIREMENTS).read_bytes() + own.pop(_REQUIREMENTS, b"")
    yield _WHERE_REQUIRED.get(platform, _REQUIREMENTS), required
    yield from own.items()


def _files(folder: Traversable, inside: str = "") -> Iterator[tuple[str, bytes]]:
    for file in folder.iterdir():
        if file.is_dir() and file.name != "__pycache__":
            yield from _files(file, f"{inside}{file.name}/")
        elif file.is_file():
            yield f"{inside}{file.name}", file.read_bytes()
