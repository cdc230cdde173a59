"""Background programs of a demonstration or a measurement. Each writes its own log file."""

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
async def running(name: str, *command: str | Path, logs: Path, ready: str, **environment: str) -> AsyncIterator[str]:
    """Run a program until the end of the block; yield the text after `ready` on the line that contains it.

    Args:
        name: name of the log file.
        command: program and arguments. The program is `fedkeeper` or one of our modules.
        logs: folder of the log file.
        ready: text that the program prints once it is ready.
        environment: variables in addition to those of this process.

    Raises:
        RuntimeError: the program ended before it was ready.
        TimeoutError: the program is not ready within READY_S seconds.
    """
    log = logs / f"{name}.log"
    process = await _start(command, environment)
    try:
        async with asyncio.timeout(READY_S):
            text = await _read_until(process, ready, log)
        drain = asyncio.create_task(_drain(process, log), name=f"log of {name}")
        try:
            yield text
        finally:
            drain.cancel()
    finally:
        await _end(process)


async def _start(command: tuple[str | Path, ...], environment: dict[str, str]) -> Process:
    program, *arguments = map(str, command)
    if program == "fedkeeper":
        line = [str(Path(sys.executable).with_name(program)), *arguments]
    else:
        line = [sys.executable, "-m", program, *arguments]
    return await asyncio.create_subprocess_exec(
        *line,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,  # Ctrl-C in a terminal must reach only the parent process
        preexec_fn=processes.signal_on_parent_death(signal.SIGTERM),
    )


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
    """Terminate a program by its own pid, and kill it if it does not end."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(GOODBYE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
