"""The amd64 side of `make board`: a broker, an FL server and a bridge with a worker, as processes of this machine."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.nats.server import USER, NatsServer
from tests.board.machine import StepFailed
from tests.chaos.parts import Part

PLATFORM: Final = "amd64"
"""Name of this machine's platform."""


@dataclass(frozen=True)
class Host:
    """What runs on this machine.

    Attributes:
        folder: its working directory; logs are in `logs` below.
        server: the broker.
    """

    folder: Path
    server: NatsServer

    @property
    def password(self) -> str:
        """The password of the broker's user."""
        return self.server.password_file.read_text().strip()

    def url(self, password_file: str) -> str:
        """Return the broker's address for a board.

        Args:
            password_file: where the board has the password.
        """
        return f"nats://{USER}@127.0.0.1:{self.server.port}?password_file={password_file}"

    async def fedkeeper(self, *arguments: str, timeout_s: float = 300.0) -> str:
        """Run a command of ours, and return what it prints.

        Args:
            arguments: its arguments.
            timeout_s: it is killed after so many seconds.

        Raises:
            StepFailed: it failed, or it took too long.
        """
        program = Path(sys.executable).with_name("fedkeeper")
        process = await asyncio.create_subprocess_exec(
            program, *arguments, cwd=self.folder, env=self.environment, stdout=PIPE, stderr=STDOUT
        )
        log = self.folder / "logs" / "commands.log"
        try:
            output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
        except TimeoutError as exc:
            process.kill()
            raise StepFailed(f"fedkeeper {arguments[0]} took more than {timeout_s:g} s", log) from exc
        text = output.decode(errors="replace")
        with log.open("a", encoding="utf-8") as file:
            file.write(f"+ fedkeeper {' '.join(arguments)}\n{text}")
        if process.returncode != 0:
            raise StepFailed(f"fedkeeper {arguments[0]} ended with {process.returncode}", log)
        return text

    @property
    def environment(self) -> dict[str, str]:
        """Environment of its programs."""
        return {**os.environ, "FEDKEEPER_URL": self.server.url, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Host]:
    """Run broker, FL server and bridge during the block.

    Args:
        folder: their working directory; created.
    """
    (folder / "logs").mkdir(parents=True)
    async with NatsServer(folder / "nats") as server, contextlib.AsyncExitStack() as stack:
        host = Host(folder, server)
        local = ("bridge", "local", "--platform", PLATFORM, "--no-provision", "--workers", "1", "--dir", "state")
        commands = {"the server takes jobs": ("server",), "the bridge is up": local}
        for ready, command in commands.items():
            part = Part(f"{PLATFORM}-{command[0]}", *command, ready=ready, folder=folder, environment=host.environment)
            await stack.enter_async_context(started(part))
        yield host


@contextlib.asynccontextmanager
async def started(part: Part, within_s: float = 300.0) -> AsyncIterator[Part]:
    """Run a program during the block.

    Args:
        part: the program.
        within_s: how long it may take until it is ready, in seconds.

    Raises:
        StepFailed: it ended, or it was not ready in time.
    """
    await part.launch()
    try:
        await wait_for(part, part.ready, within_s)
        yield part
    finally:
        await part.terminate()


async def wait_for(part: Part, text: str, within_s: float) -> None:
    """Wait until a program has written a text.

    Args:
        part: the program.
        text: the text.
        within_s: how long that may take, in seconds.

    Raises:
        StepFailed: it ended, or did not write it in time.
    """
    try:
        await part.wait_for(text, within_s)
    except AssertionError as exc:
        raise StepFailed(f"{part.name} ended before it wrote {text!r}", part.log) from exc
    except TimeoutError as exc:
        raise StepFailed(f"{part.name} did not write {text!r} within {within_s:g} s", part.log) from exc
