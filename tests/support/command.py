"""Runs a command of `fedkeeper` in the test's own process, which keeps its logs as they are."""

import inspect
from collections.abc import Callable
from typing import Any
from unittest import mock

from typer.testing import CliRunner, Result

from broker.support import logs
from fedkeeper.cli import app


def run_here(*arguments: str, **environ: str) -> Result:
    """Run a command to its end and return its output and exit code.

    Args:
        arguments: the command's name and arguments.
        environ: variables that the command sees beside those of this process.
    """
    with mock.patch.object(logs, "configure"):
        return CliRunner().invoke(app, list(arguments), env=environ)


async def call(command: Callable[..., object], *arguments: object, **options: object) -> None:
    """Run a command in the test's own event loop, so that it finds the test's memory broker.

    Args:
        command: made by `running.command`.
        arguments: its arguments.
        options: its options.
    """
    with mock.patch.object(logs, "configure"):
        work: Any = inspect.unwrap(command)(*arguments, **options)
        await work
