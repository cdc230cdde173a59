"""Programs that run in the background of a demonstration or a measurement, each with a log of its own."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from broker.support import processes

READY_S: Final = 60.0
GOODBYE_S: Final = 10.0


@contextlib.asynccontextmanager
async def started(name: str, *command: str | Path, logs: Path, ready: str, **environment: str) -> AsyncIterator[str]:
    """A program until the end of the block; yields what follows `ready` on the line that says that it is.

    Args:
        name: of its log.
        command: what to start; the first may be `fedkeeper`, or a module of ours.
        logs: folder of the logs.
        ready: what that line begins with, or contains.
        environment: on top of ours.

    Raises:
        RuntimeError: it ended before it was ready; says where its log is.
    """
    log = logs / f"{name}.log"
    process = await _start(command, environment)
    try:
        async with asyncio.timeout(READY_S):
            found = await _read_until(process, ready, log)
        drain = asyncio.create_task(_drain(process, log), name=f"log of {name}")
        try:
            yield found
        finally:
            drain.cancel()
    finally:
        await _end(process)


async def _start(command: tuple[str | Path, ...], environment: dict[str, str]) -> Process:
    return await asyncio.create_subprocess_exec(
        *_program(command),
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,  # a terminal's Ctrl-C is for whoever started us
        preexec_fn=processes.signal_on_parent_death(signal.SIGTERM),
    )


def _program(command: tuple[str | Path, ...]) -> list[str]:
    first, *rest = map(str, command)
    if first == "fedkeeper":
        return [str(Path(sys.executable).with_name(first)), *rest]
    return [sys.executable, "-m", first, *rest]


async def _read_until(process: Process, ready: str, log: Path) -> str:
    if process.stdout is None:
        raise RuntimeError("it has no output")
    with log.open("wb") as file:
        async for line in process.stdout:
            file.write(line)
            file.flush()
            if ready in line.decode():
                return line.decode().partition(ready)[2].strip()
    raise RuntimeError(f"it ended before it was ready; see {log}")


async def _drain(process: Process, log: Path) -> None:
    if process.stdout is not None:
        with log.open("ab") as file:
            async for line in process.stdout:
                file.write(line)
                file.flush()


async def _end(process: Process) -> None:
    """End a program by its own pid: asked first, killed if that is not enough."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(GOODBYE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
