"""Runs a command of `fedkeeper` in the test's own process, which keeps its logs as they are."""

import inspect
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import jsonschema
from typer.testing import CliRunner, Result

from broker.support import logs
from fedkeeper.cli import app
from tests.support import cli_docs


def run_here(*arguments: str, **environ: str) -> Result:
    """Run a command to its end and return its output and exit code. What --json prints must fit docs/schemas/cli.json.

    Args:
        arguments: the command's name and arguments.
        environ: variables that the command sees beside those of this process.
    """
    with mock.patch.object(logs, "configure"):
        result = CliRunner().invoke(app, list(arguments), env=environ)
    if "--json" in arguments:
        check_json(cli_docs.command_of(arguments), result.stdout)
    return result


def check_json(command: str, output: str) -> None:
    """Fail unless each line that a command has printed fits the command's schema.

    Args:
        command: the command's name.
        output: what it has printed on standard output.
    """
    schema = cli_docs.schema()
    part = {**schema, **schema["$defs"][command.replace(" ", "-")]}
    for line in output.splitlines():
        jsonschema.Draft202012Validator(part).validate(json.loads(line))


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
