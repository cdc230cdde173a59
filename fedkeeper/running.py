"""Runs a command's coroutine: signals end it in order, a user's mistake is a sentence and not a traceback."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Final

from bridges.errors import BridgeError
from broker.errors import BrokerError
from broker.messages.errors import MessageError
from broker.support import heap
from client_fn.errors import ClientError
from fedkeeper import notify, screen
from fedkeeper.errors import FedKeeperError
from server.errors import ServerError

MISTAKES: Final = (BrokerError, MessageError, BridgeError, ClientError, FedKeeperError, ServerError)

INTERRUPTED: Final = 130
FAILED: Final = 1


def run(command: Coroutine[Any, Any, None]) -> None:
    """Run a command to its end, and end the process if it failed."""
    heap.keep_large_blocks()
    try:
        asyncio.run(_until_signal(command))
    except KeyboardInterrupt:
        screen.console().print("stopped; everything that was started is ended")
        sys.exit(INTERRUPTED)
    except MISTAKES as exc:
        fail(str(exc))


def fail(message: str) -> None:
    """Say what is wrong and end the process."""
    screen.console().print(f"[red bold]error:[/] {_plain(message)}", soft_wrap=True)
    sys.exit(FAILED)


def _plain(message: str) -> str:
    return message.replace("[", "\\[")


async def _until_signal(command: Coroutine[Any, Any, None]) -> None:
    """SIGTERM ends a command as Ctrl-C does: by cancelling it, so that everything it started is ended."""
    task = asyncio.ensure_future(command)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        async with notify.alive():
            await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
