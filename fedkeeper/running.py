"""Runs a command's coroutine: signals end it, and a user's mistake becomes one sentence instead of a traceback."""

import asyncio
import contextlib
import functools
import os
import signal
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, ParamSpec

from rich.text import Text

from bridges.errors import BridgeError
from broker.errors import BrokerError, Conflict, ConnectFailed
from broker.messages.errors import MessageError
from broker.support import heap, processes
from client_fn.errors import ClientError
from fedkeeper import broker_note, exit_codes
from fedkeeper.display import screen
from fedkeeper.errors import FedKeeperError
from fedkeeper.exit_codes import ExitCode
from fedkeeper.services import notify

P = ParamSpec("P")

USER_ERRORS: Final = (BrokerError, MessageError, BridgeError, ClientError, FedKeeperError)
"""Errors that a person can correct: options, files, credentials, a broker out of reach. The server handles its own."""

PROGRAMMING_ERRORS: Final = (Conflict,)
"""Subclasses of `USER_ERRORS` that our code must handle. One that escapes is a bug and shows its traceback."""

OnSignal = Callable[[int], bool]
"""Hears of a signal, and returns whether the command goes on in spite of it."""

_MEMORY_DEVICES: Final = 1
"""Major number of /dev/null and its like: https://www.kernel.org/doc/Documentation/admin-guide/devices.txt"""

STOPPED: Final = "stopped; everything that was started is ended"


@dataclass
class _Ending:
    """What is said when the command that runs is interrupted."""

    stopped: str


_ENDING: Final[ContextVar[_Ending]] = ContextVar("ending")


def command(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an async function a command that `run` runs. It starts nothing that must end with it."""

    @functools.wraps(function)
    def run_command(*args: P.args, **kwargs: P.kwargs) -> None:
        run(function(*args, **kwargs), stopped="stopped; jobs go on")

    return run_command


def say_when_stopped(text: str) -> None:
    """Replace what is said when the command that runs is interrupted. Outside of `run`, nothing happens."""
    if ending := _ENDING.get(None):
        ending.stopped = text


def run(coroutine: Coroutine[Any, Any, None], *, stopped: str = STOPPED, on_signal: OnSignal = lambda _: False) -> None:
    """Run a command to its end. Exit the process if the command was interrupted or a user made a mistake.

    Args:
        coroutine: the command.
        stopped: what to say when it was interrupted, after everything has ended; `say_when_stopped` replaces it.
        on_signal: hears of each signal; if it returns False, the command is cancelled.
    """
    ending = _Ending(stopped)
    _ENDING.set(ending)
    # The user's code, which runs in a child, must not find credentials in this process.
    processes.hide()
    heap.keep_large_blocks()
    try:
        with exit_on_user_error():
            asyncio.run(_cancel_on_signal(coroutine, on_signal))
    except KeyboardInterrupt:
        screen.say(ending.stopped)
        sys.exit(ExitCode.INTERRUPTED)


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Exit the process with one sentence if the block raises an error that a person can correct."""
    try:
        yield
    except PROGRAMMING_ERRORS:
        raise
    except USER_ERRORS as exc:
        hint = broker_note.hint(exc) if isinstance(exc, ConnectFailed) else ""
        screen.console().print(Text.assemble(("error:", "red bold"), f" {exc}{hint}"), soft_wrap=True)
        sys.exit(exit_codes.of(exc))


async def _cancel_on_signal(coroutine: Coroutine[Any, Any, None], on_signal: OnSignal) -> None:
    """Cancel a command on a signal, so that it ends everything that it started."""
    task = asyncio.ensure_future(coroutine)
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        if not on_signal(number):
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup lets a command live on when its terminal is closed.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, handle, number)
    try:
        async with notify.watchdog():
            await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _leave_terminal() -> None:
    """Let what is still printed go nowhere: the terminal is closed, and writing to it would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if os.isatty(descriptor) or _is_closed_terminal(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _is_closed_terminal(descriptor: int) -> bool:
    """Whether a terminal was closed at its other end: then it answers nothing, and is none for isatty."""
    try:
        return stat.S_ISCHR(os.fstat(descriptor).st_mode) and os.major(os.fstat(descriptor).st_rdev) != _MEMORY_DEVICES
    except OSError:
        return False
