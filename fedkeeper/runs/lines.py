"""A file of lines that grows while a job runs, and that a second reader of the job's events writes anew."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fedkeeper.errors import NotSaved


class Lines:
    """Appends lines to a file. If the file has lines already, the new ones lie beside it until they are as many.

    So a file is never shorter than it was, whatever ends this program.

    Args:
        path: the file; its folder exists.

    Raises:
        NotSaved: it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._missing = _count(path)
        self._is_given_up = False
        self._written = path.with_name(f".{path.name}-{os.getpid()}") if self._missing else path
        with _errors_of(path):
            self._written.write_bytes(b"")

    def append(self, line: bytes) -> None:
        """Add a line, which is given without its end.

        Raises:
            NotSaved: it can't be written; the lines before it are there.
        """
        if self._is_given_up:
            return
        with _errors_of(self._path):
            size = self._written.stat().st_size
            try:
                with self._written.open("ab") as file:
                    file.write(line + b"\n")
            except OSError:
                # A full disk may have taken half of the line.
                os.truncate(self._written, size)
                raise
        self._missing -= 1
        if self._missing <= 0:
            self._replace()

    def finish(self) -> None:
        """Give up new lines that are fewer than those that were there, and those that would still come."""
        if self._written != self._path:
            self._is_given_up = True
            with contextlib.suppress(OSError):
                self._written.unlink(missing_ok=True)

    def _replace(self) -> None:
        if self._written != self._path:
            with _errors_of(self._path):
                self._written.replace(self._path)
            self._written = self._path


def _count(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise NotSaved(path, exc.strerror or str(exc)) from exc
