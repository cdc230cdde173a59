"""Keeps a copy of each version of the user's code on disk, so that a task runs the version that its job names."""

import contextlib
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from client_fn.code import archive, listing
from client_fn.code.archive import Archive
from client_fn.errors import BadCode, BadSettings, CodeDiffers

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """A version of the user's code, copied to disk.

    Attributes:
        digest: of the archive that `client_fn.code.archive` makes of it.
        folder: the copy; trainers import from it. Nobody changes it.
        modules: the names that an import of this code can begin with.
        requirements: text of its requirements.txt; empty: it has none.
    """

    digest: str
    folder: Path
    modules: frozenset[str]
    requirements: str


class CodeStore:
    """The versions of the user's code that this process can use. Its methods wait for the disk. Thread-safe.

    Args:
        source: file or folder of the user's code. None: there is none.
        folder: where the copies are, shared with other processes. None: a temporary folder, until `close`.
    """

    def __init__(self, source: Path | None, folder: Path | None) -> None:
        self._source = source
        self._folder = folder
        self._temporary: Path | None = None
        self._lock = threading.RLock()
        self._packed: tuple[tuple[listing.File, ...], str] | None = None
        self._versions: dict[str, CodeVersion] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def current(self) -> CodeVersion | None:
        """The code as it is now in the source; None: there is no source. Unchanged files are not read again.

        Raises:
            BadCode: the code can't be packed.
            BadSettings: the copy can't be written.
        """
        if self._source is None:
            return None
        with self._lock:
            listed = listing.read(self._source)
            if self._packed is not None and self._packed[0] == listed.files:
                version = self._known(self._packed[1])
                if version is not None:
                    return version
            packed = archive.pack_listing(self._source, listed)
            version = self._known(packed.digest) or self._keep(packed)
            self._packed = listed.files, packed.digest
            return version

    def get(self, digest: str) -> CodeVersion:
        """The version with that digest: the current one, or an older one that has a copy.

        Raises:
            CodeDiffers: neither has this digest.
            BadCode: the code can't be packed.
            BadSettings: the copy can't be written.
        """
        with self._lock:
            if _DIGEST.fullmatch(digest) and (known := self._known(digest)):
                return known
            current = self.current()
            if current is not None and current.digest == digest:
                return current
            raise CodeDiffers(archive.short(digest), archive.short(current.digest) if current else "")

    def close(self) -> None:
        """Remove the temporary folder. The store can still be used, and makes a new one then."""
        with self._lock:
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
            self._versions.clear()

    def _known(self, digest: str) -> CodeVersion | None:
        """Return the version whose copy is on disk and has its digest. It is read once per process."""
        root = self._folder or self._temporary
        if root is None or not (root / digest).is_dir():
            return None
        if digest not in self._versions:
            with contextlib.suppress(BadCode):
                packed = archive.pack(root / digest)
                if packed.digest == digest:
                    self._versions[digest] = _version(packed, root / digest)
        return self._versions.get(digest)

    def _keep(self, packed: Archive) -> CodeVersion:
        """Write the copy of a version that has none, or only a damaged one."""
        with _mapped_errors(self._folder):
            if self._folder is None and self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="fedkeeper-code-"))
            root = (self._folder or self._temporary or Path()).resolve()
            root.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
            try:
                packed.extract(new)
                _put(new, root / packed.digest, root)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        version = self._versions[packed.digest] = _version(packed, root / packed.digest)
        return version


def _put(new: Path, final: Path, root: Path) -> None:
    """Rename a folder. What has the name already is either damaged, or the same copy of another process."""
    try:
        new.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        with contextlib.suppress(BadCode):
            if archive.pack(final).digest == final.name:
                return
        damaged = Path(tempfile.mkdtemp(prefix=".damaged-", dir=root))
        final.rename(damaged)
        new.rename(final)
        shutil.rmtree(damaged, ignore_errors=True)


def _version(packed: Archive, folder: Path) -> CodeVersion:
    return CodeVersion(packed.digest, folder.resolve(), packed.modules, packed.requirements)


@contextlib.contextmanager
def _mapped_errors(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        reason = f"the copy of the code can't be written to {folder or tempfile.gettempdir()}: {exc}"
        raise BadSettings("FEDKEEPER_CODE_STORE", reason) from exc
