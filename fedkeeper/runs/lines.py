"""A file of lines that grows while a job runs, and that a second reader of the job's events writes anew."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from broker.support.decoding import UNREADABLE
from fedkeeper.errors import NotSaved


class _Line(msgspec.Struct):
    round: int


class Lines:
    """Appends lines to a file. If the file has lines already, the new ones lie beside it until they are as many.

    So a file is never shorter than it was, whatever ends this program. Two programs that write the same job's lines at
    the same time leave each round once: what the other one has written is looked at before a line is added.

    Args:
        path: the file; its folder exists. Each of its lines is an object with a `round`.

    Raises:
        NotSaved: it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._missing = _count(path)
        self._is_given_up = False
        self._written = path.with_name(f".{path.name}-{os.getpid()}") if self._missing else path
        with _errors_of(path):
            self._written.open("wb" if self._missing else "ab").close()
            self._left = _state(self._written)

    def append(self, round_: int, lines: Iterable[bytes]) -> None:
        """Add the lines of a round, which are given without their ends. Rounds come in their order.

        Args:
            round_: number of the round.
            lines: all of its lines.

        Raises:
            NotSaved: they can't be written; the lines before them are there.
        """
        written = [line + b"\n" for line in lines]
        if self._is_given_up or not written:
            return
        with _errors_of(self._path):
            size = self._size_before(round_)
            if size is None:
                return
            try:
                os.truncate(self._written, size)
                with self._written.open("ab") as file:
                    file.write(b"".join(written))
            except OSError:
                # A full disk may have taken half of a line.
                os.truncate(self._written, size)
                raise
            self._left = _state(self._written)
        self._missing -= len(written)
        if self._missing <= 0:
            self._replace()

    def finish(self) -> None:
        """Give up new lines that are fewer than those that were there, and those that would still come."""
        if self._written != self._path:
            self._is_given_up = True
            with contextlib.suppress(OSError):
                self._written.unlink(missing_ok=True)

    def _size_before(self, round_: int) -> int | None:
        """Return how many bytes come before a round; None: another program has written a later one."""
        if _state(self._written) == self._left:
            return self._left[1]
        lines = self._written.read_bytes().splitlines(keepends=True)
        while lines and (last := _round_of(lines[-1])) >= round_:
            if last > round_:
                return None
            # The same round; what comes later may have its evaluation.
            lines.pop()
        return sum(map(len, lines))

    def _replace(self) -> None:
        if self._written == self._path:
            return
        with _errors_of(self._path):
            # Another program may have added lines meanwhile.
            self._missing = _count(self._path) - _count(self._written)
            if self._missing <= 0:
                self._written.replace(self._path)
                self._written = self._path


def _state(file: Path) -> tuple[int, int]:
    """Return what shows that another program has replaced a file, or added to it: its inode and its size in bytes."""
    found = file.stat()
    return found.st_ino, found.st_size


def _round_of(line: bytes) -> int:
    """Return the round of a line; 0: the line is damaged."""
    try:
        return msgspec.json.decode(line, type=_Line).round
    except UNREADABLE:
        return 0


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
