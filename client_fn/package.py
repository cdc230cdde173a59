"""Builds the archive of the function's code for a platform: our packages, and the platform's own files beside them."""

import importlib.resources
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from typing import Final

from client_fn.code import archive
from client_fn.code.archive import Archive
from client_fn.code.requirements import for_archive
from client_fn.site import PACKAGED

_REQUIREMENTS: Final = "requirements.txt"


def build(files: str, requirements: str = _REQUIREMENTS, code: Archive | None = None) -> bytes:
    """Return a platform's archive as a zip file. The same sources give the same bytes.

    Args:
        files: the package with the platform's own files, such as `client_fn.packages.gcf`. Its `requirements.txt` is
            appended to the requirements of all platforms.
        requirements: path of the requirements file in the archive.
        code: the user's code, which gets the folder `code`; its requirements are appended too. None: there is none.

    Raises:
        BadCode: a line of the code's requirements.txt can't be used in an archive.
        ModuleNotFoundError: there is no such package.
    """
    platform_files = dict(_files(importlib.resources.files(files)))
    # This file only makes the folder a package in our repository; the platform does not need it.
    platform_files.pop("__init__.py", None)
    common_requirements = (importlib.resources.files("client_fn") / "packages" / _REQUIREMENTS).read_bytes()
    own_requirements = platform_files.pop(_REQUIREMENTS, b"")
    code_requirements = for_archive(code.requirements).encode() if code else b""
    contents = {
        **dict(_modules("broker")),
        **dict(_modules("client_fn")),
        requirements: common_requirements + own_requirements + code_requirements,
        **platform_files,
        **({f"{PACKAGED}/{name}": content for name, content in code.files().items()} if code else {}),
    }
    return archive.zip_bytes(contents)


def _modules(package: str) -> Iterator[tuple[str, bytes]]:
    """Yield the modules of a package and its subpackages, without the platforms' own files."""
    for name, content in _files(importlib.resources.files(package)):
        if name.endswith(".py") and not name.startswith("packages/"):
            yield f"{package}/{name}", content


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for file in folder.iterdir():
        if file.is_dir() and file.name != "__pycache__":
            yield from _files(file, f"{prefix}{file.name}/")
        elif file.is_file():
            yield f"{prefix}{file.name}", file.read_bytes()
