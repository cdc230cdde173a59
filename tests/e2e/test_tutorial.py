"""docs/tutorial.md: its files are written and its commands typed, in order, in one shell beside one `fedkeeper up`."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support import documents
from tests.support.documents import Block
from tests.support.paths import REPOSITORY
from tests.support.program import Program

pytestmark = [pytest.mark.slow, pytest.mark.torch]

DOCUMENT: Final = "docs/tutorial.md"

ELSEWHERE: Final = {
    "make run": "tests/e2e/test_run.py runs `fedkeeper run quickstart`, which is what it does",
    "make fabric": "tests/e2e/test_everything.py runs what it does",
    "source .venv/bin/activate": "the programs of this environment are on the path here",
    "fedkeeper up": "in a terminal of its own: started before, stopped after all others",
}
"""Commands that this test does not type as they are, and why."""


FAILS: Final = "fedkeeper watch $JOB"
"""Of a job that was cancelled: not a success."""


def typed(line: str) -> str:
    if line == FAILS:
        return f"{line} && exit 99 || true"
    return "true" if line in ELSEWHERE else line


def named_files() -> dict[str, str]:
    """The files that the reader is told to write: the text before the block ends with the name and a colon."""
    text = (REPOSITORY / DOCUMENT).read_text()
    found = re.findall(r"`([a-z]+\.(?:py|toml))`:\n\n```(?:python|toml)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return dict(found)


async def in_a_shell(lines: list[str], folder: Path) -> tuple[int, str]:
    """Type lines into a shell that ends at the first one that fails; return its exit code and all output."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-eux", "-o", "pipefail"),
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(600):
        output, _ = await process.communicate("\n".join(lines).encode())
    return process.returncode or 0, output.decode()


def test_the_commands_that_are_not_typed_are_in_the_tutorial() -> None:
    lines = [line for block in documents.blocks(DOCUMENT, "sh") for line in block.text.splitlines()]
    assert set(ELSEWHERE) <= set(lines)


def test_each_block_of_code_is_a_file_that_the_reader_is_told_to_write() -> None:
    blocks: list[Block] = documents.blocks(DOCUMENT, "python", "toml")
    assert {block.text for block in blocks} == set(named_files().values())


async def test_the_tutorial_from_its_first_job_to_own_data(tmp_path: Path) -> None:
    for name, text in named_files().items():
        (tmp_path / name).write_text(text)
    lines = [line for block in documents.blocks(DOCUMENT, "sh") for line in block.text.splitlines()]
    first = lines.index("ls runs/latest")
    lines[first], lines[first + 1] = lines[first + 1], lines[first]  # here no `make run` has left a run before
    (tmp_path / "readme.toml").write_text(documents.block("README.md", "toml", "flowers"))
    lines.append("fedkeeper run readme.toml --from flowers.csv --set stop.rounds=1 --workers 1")
    up = await Program("up", "--workers", "1", cwd=tmp_path).start()
    try:
        await up.wait_for_line("ready:")
        code, output = await in_a_shell([typed(line) for line in lines], tmp_path)
        assert code == 0, output
    finally:
        up.send(signal.SIGINT)
        await up.wait()
    for said in ("model.safetensors", "cancelled", "parameters", "a,b,c,d,species", "3 clients with 40", "10 rounds"):
        assert said in output, output
