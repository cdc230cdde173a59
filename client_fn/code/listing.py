"""Lists the files of the user's code, without data, secrets and everything else that is no code."""

import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from client_fn.errors import BadCode

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE: Final = ".fedkeeperignore"
"""Patterns of further files to leave out, in the syntax of .gitignore. It lies in the root of the code."""

MAX_FILES: Final = 10_000
MAX_SEEN: Final = 100_000
"""Largest number of files, with those that are left out."""

MAX_FILE_BYTES: Final = 10_000_000
MAX_BYTES: Final = 100_000_000

COMPILED: Final = (".pyc", ".pyo")
DATA: Final = (
    *(".arrow", ".avro", ".bin", ".csv", ".db", ".dta", ".feather", ".jsonl", ".mat", ".orc", ".parquet", ".rds"),
    *(".sav", ".sqlite", ".tfrecord", ".tsv", ".xls", ".xlsx"),
    *(".ckpt", ".h5", ".hdf5", ".npy", ".npz", ".onnx", ".pickle", ".pkl", ".pt", ".pth", ".safetensors"),
    *(".avi", ".bmp", ".dcm", ".flac", ".gif", ".jpeg", ".jpg", ".mp3", ".mp4", ".nii", ".png", ".tif", ".tiff"),
    *(".wav", ".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"),
)
"""Suffixes of tables, weights, recordings and archives. What has one of them never leaves the machine as code."""

_FOLDERS: Final = {"__pycache__": "compiled", "node_modules": "packages"}
_FOLDERS_AT_THE_ROOT: Final = {"runs": "results"}
_FOLDERS_WITH: Final = {
    "pyvenv.cfg": "environment",
    "site-secret": "FedKeeper's own folder",
    "broker/password": "FedKeeper's own folder",
}
"""Folders that contain such a file. FedKeeper's own folder has copies of the code, data and a password."""

_LARGEST_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class File:
    """A file of the code. Two equal ones have the same content, as far as can be seen without reading it.

    Attributes:
        name: path below the root of the code, with slashes.
        path: where the file is.
        size: in bytes.
        mtime_ns: time of the last change, in nanoseconds.
        inode: number of the file.
    """

    name: str
    path: Path
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of the code.

    Attributes:
        files: sorted by name.
        left_out: files and folders that are not part of the code, by name, and the reason.
    """

    files: tuple[File, ...]
    left_out: Mapping[str, str]


def read(source: Path) -> Listing:
    """List the files of the user's code.

    Args:
        source: a module's file, or a folder with modules and packages.

    Raises:
        BadCode: there is no such module or folder, a file can't be read, or there are too many files.
    """
    try:
        if not source.is_dir():
            return Listing((_single_module(source),), {})
        walk = _Walk(source)
        walk.run()
    except OSError as exc:
        raise BadCode(source, f"{exc.filename}: {exc.strerror}; name a module's file, or a folder") from exc
    return Listing(tuple(sorted(walk.files, key=lambda file: file.name)), walk.left_out)


def _single_module(source: Path) -> File:
    if source.exists() and (source.suffix != ".py" or not source.stem.isidentifier() or source.stem.startswith("__")):
        raise BadCode(source, "it is no file that can be imported; its name must be a Python name and end with .py")
    file = _file(source.name, source)
    if file.size > MAX_FILE_BYTES:
        raise BadCode(source, f"it has {file.size} bytes, at most {MAX_FILE_BYTES} are allowed")
    return file


class _Walk:
    """A walk through a folder. It follows no link to a folder, so it ends."""

    def __init__(self, root: Path) -> None:
        self.files: list[File] = []
        self.left_out: dict[str, str] = {}
        self._root = root.resolve()
        self._ignored = _read_patterns(root)
        self._seen = self._bytes = 0

    def run(self) -> None:
        folders = [("", self._root)]
        while folders:
            prefix, folder = folders.pop()
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name, path = prefix + entry.name, Path(entry.path)
                    if name == IGNORE_FILE:
                        continue
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if reason := self._folder_reason(name, path) if is_folder else self._file_reason(name, path):
                        self.left_out[f"{name}/" if is_folder else name] = reason
                    elif is_folder:
                        folders.append((f"{name}/", path))
                    else:
                        self.files.append(file := _file(name, path))
                        self._bytes += file.size
                    self._count()

    def _folder_reason(self, name: str, path: Path) -> str:
        """Return why a folder is left out; empty: it is not."""
        for file, reason in _FOLDERS_WITH.items():
            if (path / file).is_file():
                return reason
        return self._common_reason(f"{name}/", path) or _FOLDERS.get(path.name) or _FOLDERS_AT_THE_ROOT.get(name) or ""

    def _file_reason(self, name: str, path: Path) -> str:
        """Return why a file is left out; empty: it is not."""
        if reason := self._common_reason(name, path) or (self._link_reason(path) if path.is_symlink() else ""):
            return reason
        suffix, info = path.suffix.lower(), path.stat()
        if not stat.S_ISREG(info.st_mode):
            return "no regular file"
        if suffix in COMPILED or suffix in DATA:
            return "compiled" if suffix in COMPILED else "data"
        if name == "__init__.py":
            # It would make the root a package, which nobody can import by a name. In a function's archive, where the
            # root is the folder `code`, it would replace the module of the standard library.
            return "the root is no package; to import it by its name, give the folder above"
        return "over 10 MB" if info.st_size > MAX_FILE_BYTES else ""

    def _common_reason(self, name: str, path: Path) -> str:
        if path.name.startswith("."):
            return "hidden"
        if self._ignored is not None and self._ignored.match_file(name):
            return IGNORE_FILE
        return "" if _is_text(name) else "its name is not UTF-8"

    def _link_reason(self, path: Path) -> str:
        target = path.resolve()
        if not target.is_relative_to(self._root):
            return "link that leads outside"
        if any(part.startswith(".") for part in target.relative_to(self._root).parts):
            return "link to something hidden"
        if target.is_dir():
            return "link to a folder"
        return "" if target.exists() else "broken link"

    def _count(self) -> None:
        """Count one more file or folder, and raise an error if it is one too many."""
        self._seen += 1
        if len(self.files) > MAX_FILES or self._seen > MAX_SEEN:
            names = [*(file.name for file in self.files), *self.left_out]
            folders = Counter(name.rstrip("/").rpartition("/")[0] for name in names)
            largest = f"too many files, most of them in {max(folders, key=folders.__getitem__, default='') or '.'}/"
        elif self._bytes > MAX_BYTES:
            files = sorted(self.files, key=lambda file: -file.size)[:_LARGEST_SHOWN]
            sizes = ", ".join(f"{file.name} ({file.size} bytes)" for file in files)
            largest = f"more than {MAX_BYTES} bytes; the largest files are {sizes}"
        else:
            return
        raise BadCode(self._root, f"{largest}; name a smaller folder, or list what is no code in its {IGNORE_FILE}")


def _file(name: str, path: Path) -> File:
    info = path.stat()
    return File(name, path, info.st_size, info.st_mtime_ns, info.st_ino)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_patterns(root: Path) -> "GitIgnoreSpec | None":
    file = root / IGNORE_FILE
    if not file.is_file():
        return None
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(file.read_text(encoding="utf-8").splitlines())
    except ValueError as exc:  # a wrong pattern, or no UTF-8
        raise BadCode(file, str(exc)) from exc
