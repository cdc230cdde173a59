"""The real program, as a user starts it: every process that it starts carries a mark that tests can find."""

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
"""Longer than a loaded machine takes for anything that a program does."""

ALL_COUNT: Final = ("--set", "cohort.quorum=1.0", "--set", "cohort.deadline_s=600")
"""A job that counts every client in every round, however slow the machine is: whoever compares models needs it."""

SHORT: Final = (
    *ALL_COUNT,
    *("--set", "stop.rounds=2", "--set", "training.local_epochs=1", "--set", "training.optimizer=adam"),
)
"""Two such rounds with Adam, so that optimizer state is carried from one to the other."""

_MARK = "FEDKEEPER_TEST_MARK"


class Program:
    """`fedkeeper` with arguments, in a folder of its own.

    Attributes:
        output: what it has printed so far.
    """

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        self.output = ""
        self._arguments = arguments
        self._cwd = cwd
        self._mark = uuid.uuid4().hex
        self._environment = {**os.environ, **environment, _MARK: self._mark, "COLUMNS": "200"}
        self._process: Process | None = None

    async def start(self) -> "Program":
        self._process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("fedkeeper"),
            *self._arguments,
            cwd=self._cwd,
            env=self._environment,
            stdout=PIPE,
            stderr=STDOUT,
        )
        return self

    async def says(self, wanted: str, within_s: float = WITHIN_S) -> str:
        """Read on until it has printed a line with that text; returns the line."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(within_s):
            async for raw in self._process.stdout:
                line = raw.decode()
                self.output += line
                if wanted in line:
                    return line.rstrip("\n")
        raise AssertionError(f"it never said {wanted!r}:\n{self.output}")

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ends(self, within_s: float = WITHIN_S) -> int:
        """Read to the end; returns the exit code."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(within_s):
            self.output += (await self._process.stdout.read()).decode()
            return await self._process.wait()

    def processes(self, of: str = "") -> list[int]:
        """Every living process that carries its mark, itself included; only those whose command line has `of`."""
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._marked(entry)]
        return [pid for pid in found if of in _command_line(pid)]

    def _marked(self, entry: Path) -> bool:
        try:
            return f"{_MARK}={self._mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            return False


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


async def run(*arguments: str, cwd: Path, **environment: str) -> tuple[int, str]:
    """Run it to its end: exit code and output."""
    program = await Program(*arguments, cwd=cwd, **environment).start()
    return await program.ends(), program.output


def digest(output: str) -> str:
    """The final model's digest, as `run` says it."""
    found = re.search(r"model digest +([0-9a-f]{64})", output)
    assert found, output
    return found[1]
