"""Runs a command of `fedkeeper` in the test's own process, which keeps its logs as they are."""

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
