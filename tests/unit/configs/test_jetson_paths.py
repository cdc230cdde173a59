"""The paths in docs/jetson.md: short, and made of options, files and fields that there are."""

import re
import shlex
from typing import Any, Final

import pytest
import typer

from broker.messages import job_file
from fedkeeper import cli
from tests.support.paths import REPOSITORY

TEXT: Final = (REPOSITORY / "docs/jetson.md").read_text()
MOST: Final = 15

BOARD: Final = "## JetPack 7, Raspberry Pi, any Debian 12 or Ubuntu 24.04"
FIRST, HOST, GPU, OLDER_PYTHON, LATER = (
    part.partition("\n## ")[0]
    for part in (
        TEXT.partition("## Before the first board")[2],
        TEXT.partition(BOARD)[2],
        TEXT.partition("## JetPack 6, with its GPU")[2],
        TEXT.partition("## JetPack 6, without its GPU")[2],
        TEXT.partition("## What to expect")[2],
    )
)


def commands(section: str) -> list[str]:
    """The commands of a section, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]


def on_the_computer() -> list[str]:
    return [command for command in commands(HOST) if command.startswith("fedkeeper ")]


def host_path() -> list[str]:
    """The path of a host: of its three installations, one."""
    installations = [command for command in commands(HOST) if "install.sh" in command]
    assert len(installations) == 3
    return [command for command in commands(HOST) if command not in installations[1:]]


def test_each_path_has_few_commands() -> None:
    host = host_path()
    after_the_installation = len(host) - next(n for n, command in enumerate(host) if "install.sh" in command) - 1
    lengths = {
        "host": len(host),
        "JetPack 6 with its GPU, and 5": len(commands(GPU)) + len(on_the_computer()),
        "JetPack 6 without": len(commands(OLDER_PYTHON)) + after_the_installation,
    }
    assert max(lengths.values()) + len(commands(FIRST)) <= MOST, lengths


@pytest.mark.parametrize("command", on_the_computer())
def test_the_program_has_these_commands_and_options(command: str) -> None:
    found: Any = typer.main.get_command(cli.app)
    words = shlex.split(command)[1:]
    while hasattr(found, "get_command") and words:
        found = found.get_command(None, words.pop(0))
        assert found is not None
    known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("script", ["edge/install.sh", "edge/containers/install.sh"])
def test_the_scripts_have_these_options(script: str) -> None:
    usage = (REPOSITORY / "configs" / script).read_text().partition('usage="')[2].partition('"')[0]
    uses = [
        command for command in re.findall(r"sudo (edge/\S*install\.sh [^\n`]*)", TEXT) if command.startswith(script)
    ]
    assert len(uses) >= 1
    for use in uses:
        assert set(re.findall(r"(--[a-z-]+)", use)) <= set(re.findall(r"(--[a-z-]+)", usage)), use


def test_its_job_is_one_and_trains_at_the_board() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    job = job_file.from_text(text)
    assert job.cohort.where == {"site": "board-7"}
    assert f"--label data={job.data.dataset} " in TEXT
