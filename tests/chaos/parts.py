"""Programs of a trial: each writes a log, carries the trial's mark, and can be killed, frozen and started anew."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from broker.support import processes

MARK: Final = "CHAOS_TRIAL"
"""Environment variable of every process of a trial. Trainers get it too, because the site names it."""

READY_S: Final = 180.0
"""How long a program may take until it is ready on a loaded machine. Seconds."""

END_S: Final = 60.0
"""How long it may take to end after SIGTERM. It should be 10 s on an idle machine."""

_PROC: Final = Path("/proc")
_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Part:
    """A program of the system under test.

    Args:
        name: name for people, and of its log.
        command: `fedkeeper`'s arguments.
        ready: text of the log line that says that it is ready.
        folder: its working directory; the log is in `logs` below.
        environment: its environment.
        program: what is run with these arguments; by default this environment's `fedkeeper`.

    Attributes:
        name: see above.
        ready: see above.
        log: its log, of all its starts.
        deaths: how it ended without our doing, each time.
    """

    def __init__(
        self,
        name: str,
        *command: str,
        ready: str,
        folder: Path,
        environment: dict[str, str],
        program: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.log = folder / "logs" / f"{name}.log"
        self.deaths: list[str] = []
        self._command = (*(program or (str(Path(sys.executable).with_name("fedkeeper")),)), *command)
        self.ready = ready
        self._folder = folder
        self._environment = environment
        self._process: Process | None = None
        self._is_ours_to_end = False
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Id of its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        await self.launch()
        await self.wait_until_ready()

    async def launch(self) -> None:
        """Start it."""
        self.log.parent.mkdir(exist_ok=True)
        self._from = self.log.stat().st_size if self.log.exists() else 0
        self._is_ours_to_end = False
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must reach only the harness, which ends its parts itself
                preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
            )
        self._watching = asyncio.create_task(self._watch(self._process), name=f"watch {self.name}")

    async def wait_until_ready(self) -> None:
        """Wait until it says that it is ready.

        Raises:
            AssertionError: it ended before.
        """
        await self.wait_for(self.ready, READY_S)

    async def wait_for(self, text: str, timeout_s: float) -> None:
        """Wait until it has written a text since its last start.

        Args:
            text: the text.
            timeout_s: seconds to wait.

        Raises:
            AssertionError: it ended before.
        """
        async with asyncio.timeout(timeout_s):
            while text not in self.output():
                assert self.is_running, f"{self.name} ended before it wrote {text!r}:\n{self.output()}"
                await asyncio.sleep(0.05)

    def output(self) -> str:
        """Return what it has written since its last start."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def kill(self) -> None:
        """Kill its process alone, as the kernel would."""
        self._is_ours_to_end = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop its process alone."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let its process go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    async def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        assert self._process is not None
        async with asyncio.timeout(END_S):
            return await self._process.wait()

    async def terminate(self) -> int:
        """End it in order, and return the exit code; kill it if it does not end in time."""
        if not self.is_running:
            return 0
        self._is_ours_to_end = True
        os.kill(self.pid, signal.SIGTERM)
        try:
            return await self.wait()
        except TimeoutError:
            self.deaths.append(f"did not end within {END_S:g} s after SIGTERM")
            self.kill()
            return await self.wait()

    def memory_mb(self) -> float:
        """Return the resident memory of its process, in MB."""
        return int((_PROC / str(self.pid) / "statm").read_text().split()[1]) * _PAGE_MB

    def descendants(self, command: str = "") -> list[int]:
        """Return the ids of the processes below its own whose command line has a text, sorted."""
        below, parents = {self.pid}, dict(_parents())
        while more := {pid for pid, parent in parents.items() if parent in below and pid not in below}:
            below |= more
        return sorted(pid for pid in below - {self.pid} if command in command_line(pid))

    def workers(self) -> list[int]:
        """Return the ids of a bridge's workers, which are copies of its fork server, sorted."""
        found, parents = self.descendants("client_fn.handlers.local"), dict(_parents())
        return [pid for pid in found if parents.get(pid) in found]

    async def _watch(self, process: Process) -> None:
        code = await process.wait()
        if not self._is_ours_to_end:
            self.deaths.append(processes.describe_exit(code))


def _parents() -> Iterator[tuple[int, int]]:
    """Yield each living process and its parent."""
    for entry in _PROC.iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field is the program's name in parentheses and may hold anything (proc(5)).
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if entry.name.isdecimal() and fields[0] not in "ZX":
                yield int(entry.name), int(fields[1])


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if it has ended."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def marked(mark: str) -> list[int]:
    """Return the ids of all living processes with a trial's mark, wherever their parents are."""
    text, found = f"{MARK}={mark}".encode(), []
    for entry in _PROC.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and text in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return sorted(found)
