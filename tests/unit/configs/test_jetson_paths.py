"""The paths in docs/jetson.md are short. tests/unit/docs looks at each of their commands."""

import re
from typing import Final

from broker.messages import job_file
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


def test_its_job_is_one_and_trains_at_the_board() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    job = job_file.from_text(text)
    assert job.cohort.where == {"site": "board-7"}
    assert f"--label data={job.data.dataset} " in TEXT
