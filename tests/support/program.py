"""Runs the real program as a user does. Each process that it starts carries a mark, so that tests can find it."""

import asyncio
import os
import re
import signal
import sys
import uuid
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path
from typing import Final

WITHIN_S: Final = 300.0
"""Timeout for any single action of a program; longer than a loaded machine needs."""

ALL_COUNT: Final = ("--set", "cohort.quorum=1.0", "--set", "cohort.deadline_s=600")
"""Options of a job that counts every client in every round, for tests that compare models."""

SHORT: Final = (
    *ALL_COUNT,
    *("--set", "stop.rounds=2", "--set", "training.local_epochs=1", "--set", "training.optimizer=adam"),
)
"""Options of a job with two such rounds. Adam has optimizer state that goes from one round to the next."""

_MARK = "TEST_OF_PROGRAM"
"""Trainers get it too, because their site names it."""


class Program:
    """A run of `fedkeeper` in its own folder.

    Attributes:
        output: the lines that the program has printed and the test has read.
    """

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        self.output = ""
        self._arguments = arguments
        self._cwd = cwd
        self._mark = uuid.uuid4().hex
        # Trainers get only variables that are named.
        named = ",".join(filter(None, (environment.get("FEDKEEPER_TRAINER_ENV"), _MARK)))
        ours = {_MARK: self._mark, "FEDKEEPER_TRAINER_ENV": named, "COLUMNS": "200"}
        self._environment = {**os.environ, **environment, **ours}
        self._process: Process | None = None

    async def start(self, *prefix: str) -> "Program":
        """Start the program and return it.

        Args:
            prefix: a command that runs it, with its own arguments.
        """
        # Under nohup a program would ignore SIGHUP, as it should.
        self._process = await asyncio.create_subprocess_exec(
            *("env", "--default-signal=HUP"),
            *prefix,
            Path(sys.executable).with_name("fedkeeper"),
            *self._arguments,
            cwd=self._cwd,
            env=self._environment,
            stdout=PIPE,
            stderr=STDOUT,
        )
        return self

    async def wait_for_line(self, text: str, timeout_s: float = WITHIN_S) -> str:
        """Read the output up to a line that contains a text, and return that line.

        Args:
            text: the text to wait for.
            timeout_s: seconds to wait.

        Raises:
            AssertionError: the program ended without such a line.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            async for raw in self._process.stdout:
                line = raw.decode()
                self.output += line
                if text in line:
                    return line.rstrip("\n")
        raise AssertionError(f"it never said {text!r}:\n{self.output}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self, timeout_s: float = WITHIN_S) -> int:
        """Read the remaining output, wait for the end and return the exit code."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            self.output += (await self._process.stdout.read()).decode()
            return await self._process.wait()

    def processes(self, command: str = "") -> list[int]:
        """Return the ids of the program's living processes whose command line contains a text."""
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._has_mark(entry)]
        return [pid for pid in pids if command in _command_line(pid)]

    def copies(self, command: str) -> list[int]:
        """Return the ids of those of them that are copies of a fork server with this text in its command line."""
        pids = self.processes(command)
        return [pid for pid in pids if _parent(pid) in pids]

    def _has_mark(self, entry: Path) -> bool:
        try:
            return f"{_MARK}={self._mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            return False


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _parent(pid: int) -> int | None:
    try:
        # The second field is the program's name in parentheses and may hold anything (proc(5)).
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


async def run(*arguments: str, cwd: Path, **environment: str) -> tuple[int, str]:
    """Run the program to its end; return its exit code and its output.

    Args:
        arguments: the command line.
        cwd: the working directory.
        environment: additional environment variables.
    """
    program = await Program(*arguments, cwd=cwd, **environment).start()
    return await program.wait(), program.output


def digest(output: str) -> str:
    """Return the final model's digest from the output of `fedkeeper run`."""
    match = re.search(r"model digest +([0-9a-f]{64})", output)
    assert match, output
    return match[1]
