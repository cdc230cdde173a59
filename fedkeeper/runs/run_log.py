"""The log of `fedkeeper run`: it lies beside the job's results, and does not disturb what the terminal shows."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from broker.support import logs
from fedkeeper.display import screen
from fedkeeper.errors import NotSaved
from fedkeeper.exit_codes import ExitCode

NAME: Final = "run.log"


class RunLog:
    """A log that is kept in memory until there is a file for it. Threads may write to it."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._lock = threading.Lock()
        self.path: Path | None = None

    def write(self, text: str) -> int:
        """Append a text; return its length."""
        with self._lock:
            if self.path is None:
                self._text.append(text)
            else:
                # Opened anew each time: nothing of it is lost if the process is killed. Of a full disk others tell.
                with contextlib.suppress(OSError), self.path.open("ab") as file:
                    file.write(text.encode("utf-8", errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: what was written is there."""

    def move_to(self, folder: Path) -> None:
        """Write what there is, and all that follows, to `run.log` in a folder. An earlier run's lines stay.

        Raises:
            NotSaved: it can't be written.
        """
        path = folder / NAME
        with self._lock:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.writelines(self._text)
            except OSError as exc:
                raise NotSaved(path, exc.strerror or str(exc)) from exc
            self.path, self._text = path, []

    def is_empty(self) -> bool:
        """Whether nothing was written since the start, or all of it is in the file."""
        return not self._text


@contextlib.contextmanager
def open_log(folder: Path, *, verbose: bool) -> Iterator[RunLog]:
    """Let this process and its workers log to a run's log. If the block ends by an error, say where the log is.

    Args:
        folder: gets the log if the block ends before the run has a folder.
        verbose: log everything.
    """
    log = RunLog()
    logs.configure(verbose=verbose, to=log)
    try:
        yield log
    except SystemExit as exc:
        if exc.code not in (ExitCode.DONE, ExitCode.INTERRUPTED, ExitCode.USAGE):
            if log.path is None and not log.is_empty():
                # The error with which the block ends is told, and matters more.
                with contextlib.suppress(NotSaved):
                    log.move_to(folder)
            # A run that leaves nothing to go on with has deleted an empty log.
            if log.path is not None and log.path.exists():
                screen.say(f"log           {log.path}")
        raise
