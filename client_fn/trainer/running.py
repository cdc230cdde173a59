"""A trainer's process as the worker holds it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from client_fn.site import Site


class Process(Protocol):
    """A process that leads a session of its own: a child of this one, or a copy that a fork server has made."""

    @property
    def pid(self) -> int:
        """Its id, which is its session's too."""

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What it prints."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None: it still runs."""

    async def wait(self) -> int:
        """Return the exit code when it has ended."""

    def close(self) -> None:
        """Close our ends of its pipes. It must have ended."""


@dataclass(frozen=True, slots=True)
class Running:
    """A started trainer.

    Attributes:
        process: the process; it leads a session of its own.
        channel: socket to it.
        mark: value of the variable that it and its descendants carry.
    """

    process: Process
    channel: socket.socket
    mark: str


Launcher = Callable[[Site, Sequence[Path]], Awaitable[Running]]
"""Starts a trainer with the user's code in these folders. `client_fn.trainer.launch.launch` is the real one."""
