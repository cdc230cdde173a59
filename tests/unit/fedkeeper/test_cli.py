"""The command line as a whole: its help, its options that all commands share, and its examples."""

import shlex
from collections.abc import Iterator
from typing import Any, Final

import pytest
import typer

from fedkeeper import __version__
from fedkeeper.cli import app
from fedkeeper.commands import examples
from fedkeeper.exit_codes import ExitCode
from tests.support.command import run_here

WIDTH: Final = 80


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command and group with its name."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = f"{path} {name}".strip()
        yield inner, command
        if hasattr(command, "list_commands"):
            yield from commands(command, inner)


COMMANDS: Final = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS)
def test_help_fits_80_columns_and_ends_with_an_example(path: str) -> None:
    shown = run_here(*path.split(), "-h", COLUMNS=str(WIDTH))
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert [line for line in lines if len(line) > WIDTH and "fedkeeper" not in line] == []
    assert "bool" not in shown.stdout
    assert any(f"  fedkeeper {path}" in line for line in lines), "fedkeeper/commands/examples.py lacks an example"
    assert run_here(*path.split(), "--help", COLUMNS=str(WIDTH)).stdout == shown.stdout


@pytest.mark.parametrize("line", sorted(line for lines in examples.EXAMPLES.values() for line in lines))
def test_an_example_is_a_command_line_that_is_accepted(line: str) -> None:
    program, *words = shlex.split(line)
    command: Any = typer.main.get_command(app)
    context = typer.Context(command)
    while words and hasattr(command, "list_commands") and not words[0].startswith("-"):
        inner = command.get_command(context, words[0])
        if inner is None:
            break
        command, words = inner, words[1:]
    assert program == "fedkeeper"
    command.make_context("fedkeeper", words)


def test_every_example_is_of_a_command() -> None:
    assert set(examples.EXAMPLES) <= set(COMMANDS)


def test_the_version_is_told() -> None:
    for option in ("-V", "--version"):
        assert run_here(option).stdout == f"fedkeeper {__version__}\n"


def test_wrong_options_and_missing_files_end_with_the_same_code() -> None:
    for arguments in (
        ("jobs", "--nonsense"),
        ("nonsense",),
        ("submit",),
        ("submit", "nowhere.toml", "--url", "memory://x"),
        ("watch", "--since", "long", "--url", "memory://x"),
    ):
        done = run_here(*arguments)
        assert (done.exit_code, done.stdout) == (ExitCode.USAGE, ""), arguments
        assert done.stderr
