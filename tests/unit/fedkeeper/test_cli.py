"""The command line as a whole: its help, its options that all commands share, and its examples."""

import shlex
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import typer

from fedkeeper import __version__
from fedkeeper.cli import app
from fedkeeper.commands import examples
from fedkeeper.exit_codes import ExitCode
from fedkeeper.local import run as local_run
from tests.support import cli_docs
from tests.support.command import run_here

WIDTH: Final = 80


COMMANDS: Final = dict(cli_docs.commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS)
def test_help_fits_80_columns_and_ends_with_an_example(path: str) -> None:
    shown = run_here(*path.split(), "-h", COLUMNS=str(WIDTH))
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert [line for line in lines if len(line) > WIDTH and "fedkeeper" not in line] == []
    assert "bool" not in shown.stdout
    assert any(f"  fedkeeper {path}" in line for line in lines), "fedkeeper/commands/examples.py lacks an example"
    assert run_here(*path.split(), "--help", COLUMNS=str(WIDTH)).stdout == shown.stdout


@pytest.mark.parametrize("path", ["", *(path for path, found in COMMANDS.items() if hasattr(found, "list_commands"))])
def test_no_line_of_a_list_of_commands_is_cut(path: str) -> None:
    shown = run_here(*path.split(), "-h", COLUMNS=str(WIDTH)).stdout.partition("Commands:")[2].splitlines()
    assert [line for line in shown if line.endswith("...")] == []


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


@pytest.mark.parametrize("path", cli_docs.files(), ids=lambda path: path.name)
def test_the_committed_pages_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == cli_docs.files()[path], "run scripts/wire-docs"


def test_ctrl_c_is_answered_also_before_anything_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_run, "prepare", download)
    monkeypatch.chdir(tmp_path)
    done = run_here("run")
    assert (done.exit_code, done.stdout, done.stderr) == (ExitCode.INTERRUPTED, "", "stopped\n")


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(cli_docs.schema())


def test_every_command_that_ends_prints_its_result_as_json() -> None:
    with_json = {path for path, found in COMMANDS.items() if any("--json" in param.opts for param in found.params)}
    endless = {path for path in COMMANDS if path.partition(" ")[0] in cli_docs.ENDLESS}
    assert with_json == {*cli_docs.RESULTS}, "tests/support/cli_docs.py names what each command prints"
    assert with_json | endless == set(COMMANDS), "these commands lack --json"


@pytest.mark.parametrize(
    ("option", "letter"), [("--json", ""), ("--quiet", "-q"), ("--verbose", "-v"), ("--set", ""), ("--url", "")]
)
def test_an_option_means_the_same_on_every_command(option: str, letter: str) -> None:
    found = [param for command in COMMANDS.values() for param in command.params if option in param.opts]
    assert found
    assert {tuple(param.opts) for param in found} == {tuple(filter(None, (option, letter)))}
    if option in {"--json", "--quiet", "--verbose"}:
        assert len({param.help for param in found}) == 1
