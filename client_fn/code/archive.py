"""Packs the user's code into an archive. Its digest names the code in jobs: the same files have the same one."""

import hashlib
import io
import keyword
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from client_fn.code import listing
from client_fn.code.listing import Listing
from client_fn.errors import BadCode

REQUIREMENTS: Final = "requirements.txt"
"""The file in the root of the code that lists the libraries that the code needs."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644 << 16
_READ_ONLY: Final = 0o444
_KB: Final = 1000

_SHOWN: Final = 8
"""How many of the names that were left out `summary` shows."""


@dataclass(frozen=True, slots=True)
class Archive:
    """The user's code as a zip file.

    Attributes:
        digest: SHA-256 of the content, in hexadecimal digits.
        content: the zip file.
        taken: size of each file in bytes, by its name.
        left_out: files and folders that are not part of the code, by name, and the reason.
        modules: the names that an import of this code can begin with, without those of the standard library, which
            Python would import instead.
        requirements: text of the code's requirements.txt; empty: it has none.
    """

    digest: str
    content: bytes = field(repr=False)
    taken: Mapping[str, int]
    left_out: Mapping[str, str]
    modules: frozenset[str]
    requirements: str

    def summary(self) -> str:
        """One line: the digest, how much code there is, and what was left out."""
        count = len(self.taken)
        text = f"code {short(self.digest)}: {count} file{'s'[: count != 1]}, {_size(sum(self.taken.values()))}"
        if not self.left_out:
            return text
        # Nobody misses the hidden ones, so they come last.
        left_out = sorted(self.left_out.items(), key=lambda item: (item[0].startswith((".", "__pycache__")), item))
        names = ", ".join(f"{name} ({reason})" for name, reason in left_out[:_SHOWN])
        more = ", ..." if len(self.left_out) > _SHOWN else ""
        return f"{text}; left out {len(self.left_out)}: {names}{more}"

    def files(self) -> dict[str, bytes]:
        """The content of each file, by its name."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def extract(self, folder: Path) -> None:
        """Write the files, read-only, into an empty folder.

        Raises:
            OSError: a file can't be written.
        """
        for name, content in self.files().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(_READ_ONLY)


def short(digest: str) -> str:
    """The part of a digest that people read."""
    return digest[:8]


def pack(path: Path) -> Archive:
    """Pack a module's file, or a folder of modules and packages. The same files give the same bytes everywhere.

    Raises:
        BadCode: there is no such code, it is too large, it has no module, or a file can't be read.
    """
    return pack_listing(path, listing.read(path))


def pack_listing(path: Path, listed: Listing) -> Archive:
    """Pack files that are listed already.

    Args:
        path: what was listed, for messages.
        listed: the files.

    Raises:
        BadCode: the code has no module, or a file can't be read.
    """
    modules = _modules(file.name for file in listed.files)
    if not modules:
        raise BadCode(path, "it has no Python module, or only modules with names of the standard library")
    try:
        contents = {file.name: file.path.read_bytes() for file in listed.files}
        requirements = contents.get(REQUIREMENTS, b"").decode("utf-8-sig")
    except OSError as exc:
        raise BadCode(path, f"{exc.filename}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise BadCode(path, f"{REQUIREMENTS} is not UTF-8: {exc}") from exc
    content = zip_bytes(contents)
    digest = hashlib.sha256(content).hexdigest()
    taken = {name: len(contents[name]) for name in contents}
    return Archive(digest, content, taken, dict(listed.left_out), modules, requirements)


def zip_bytes(contents: Mapping[str, bytes]) -> bytes:
    """Return a zip file. The same files give the same bytes on every machine, so its digest identifies them."""
    buffer = io.BytesIO()
    # Not deflated: zlib's output differs between versions.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, _MODE
            archive.writestr(entry, contents[name])
    return buffer.getvalue()


def _modules(names: Iterable[str]) -> frozenset[str]:
    python = (name.removesuffix(".py") for name in names if name.endswith(".py"))
    return frozenset(top for name in python if _is_importable(top := name.partition("/")[0]))


def _is_importable(name: str) -> bool:
    is_name = name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")
    return is_name and name not in sys.stdlib_module_names


def _size(count: int) -> str:
    for unit in ("B", "kB"):
        if count < _KB:
            return f"{count} {unit}"
        count = round(count / _KB)
    return f"{count} MB"
