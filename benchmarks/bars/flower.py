"""Flower as a peer: its no-op app, in an environment of its own (`make flower`)."""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import processes
from benchmarks.bars.bar import NotMeasured
from broker.support.processes import signal_on_parent_death

FOLDER: Final = Path(__file__).parent.parent / "flower"
PYTHON: Final = Path(os.environ.get("FLOWER_PYTHON", FOLDER / ".venv/bin/python"))
"""The Python of Flower's environment."""

PACKAGES: Final = ("flwr", "ray")

START_S: Final = 180.0
ROUND_S: Final = 900.0
DEPLOYED_S: Final = 240.0
"""A round of ten SuperNodes takes a minute on two idle cores. On a busy machine they start ever more processes."""

Shapes = Sequence[Sequence[int]]


def installed() -> dict[str, str]:
    """Return the versions of Flower and Ray in Flower's environment; empty: they are not there."""
    folders = [str(path) for path in PYTHON.parent.parent.glob("lib/python*/site-packages")]
    found = ((each.metadata["Name"], each.version) for each in importlib.metadata.distributions(path=folders))
    return dict(sorted((name, version) for name, version in found if name in PACKAGES))


class Simulation:
    """Flower's in-process simulation, which runs a round whenever it is asked to.

    Args:
        process: `benchmarks/flower/simulate.py`.
        log: what it writes to standard error.

    Attributes:
        versions: of Flower, Ray and Python.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.versions: dict[str, str] = {}

    async def start(self) -> None:
        """Wait until it can run rounds."""
        told = await self._read(START_S)
        self.versions = {name: str(value) for name, value in told.items() if name != "ready"}

    async def rounds(self, count: int) -> list[float]:
        """Run rounds, and return the seconds of each.

        Args:
            count: their number.
        """
        seconds = []
        for _ in range(count):
            if self._process.stdin is None:
                raise RuntimeError("Flower has no input")
            self._process.stdin.write(b"\n")
            seconds.append(float((await self._read(ROUND_S))["seconds"]))
        return seconds

    async def _read(self, limit_s: float) -> dict[str, Any]:
        async with asyncio.timeout(limit_s):
            while self._process.stdout is not None and (line := await self._process.stdout.readline()):
                if line.startswith(b"{"):
                    return dict(json.loads(line))
        raise RuntimeError(f"Flower has ended:\n{self._log.read_text()[-2000:]}")


@contextlib.asynccontextmanager
async def simulation(folder: Path, clients: int, shapes: Shapes, *, own: bool) -> AsyncIterator[Simulation]:
    """Run Flower's simulation until the end of the block. Between rounds it waits.

    Args:
        folder: for its log.
        clients: number of clients; all are in each round.
        shapes: shapes of the model's tensors.
        own: whether each client's update has bytes of its own.
    """
    log = folder / "flower.log"
    arguments = [*_arguments("simulate.py", clients, shapes), *(["--own"] if own else [])]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors, limit=1 << 20
        )
        try:
            flower = Simulation(process, log)
            await flower.start()
            yield flower
        finally:
            await _end(process)


async def deployment(clients: int, shapes: Shapes, rounds: int, *, own: bool) -> list[float]:
    """Run rounds on a SuperLink and SuperNodes, one after the other; return the seconds of each, the first included.

    Args:
        clients: number of SuperNodes.
        shapes: shapes of the model's tensors.
        rounds: number of rounds.
        own: whether each client's update has bytes of its own.
    """
    arguments = [*_arguments("deploy.py", clients, shapes), *(["--own"] if own else [])]
    process = await asyncio.create_subprocess_exec(
        *(*arguments, "--rounds", str(rounds), "--limit", str(DEPLOYED_S)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        preexec_fn=signal_on_parent_death(signal.SIGTERM),
    )
    try:
        async with asyncio.timeout(START_S + rounds * DEPLOYED_S):
            out, _ = await process.communicate()
    finally:
        await _end(process)
    seconds = [json.loads(line).get("seconds") for line in out.splitlines() if line.startswith(b"{")]
    found = [float(each) for each in seconds if each is not None]
    if len(found) < rounds:
        raise RuntimeError(f"Flower's deployment has made {len(found)} of {rounds} rounds")
    return found


def _arguments(program: str, clients: int, shapes: Shapes) -> list[str]:
    if not PYTHON.exists():
        raise NotMeasured("Flower is not there: `make flower`, or --no-peer")
    return [str(PYTHON), str(FOLDER / program), "--clients", str(clients), "--shapes", json.dumps(shapes)]


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program with all that it has started: what Ray starts outlives a parent that was killed."""
    started = [] if process.returncode is not None else processes.descendants(process.pid)
    if process.stdin is not None:
        process.stdin.close()
    elif process.returncode is None:
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60.0):
            await process.wait()
    for pid in started:
        if str(FOLDER) in " ".join(processes.command(pid)) or str(PYTHON.parent) in " ".join(processes.command(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
    await process.wait()
