"""The commands of Mosquitto's clients in the documents, as they stand, against a Mosquitto."""

import asyncio
import re
import shutil
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

import pytest

from broker.messages import job_file
from tests.support import documents
from tests.support.brokers import Mosquitto
from tests.support.paths import REPOSITORY

WITHIN_S: Final = 120.0


def typed(program: str) -> list[list[str]]:
    """The different uses of a program in all documents."""
    uses = [
        words
        for document in documents.DOCUMENTS
        for block in documents.blocks(document, "sh")
        for words in documents.commands(block.text)
        if words[0] == program
    ]
    return [list(words) for words in {tuple(words) for words in uses}]


async def start(mosquitto: Mosquitto, words: list[str], folder: Path, *more: str) -> Process:
    """Type a command for this test's broker, whose port is not the usual one."""
    program = shutil.which(words[0])
    assert program, f"{words[0]} is missing"
    return await asyncio.create_subprocess_exec(
        program, *words[1:], *more, "-h", "127.0.0.1", "-p", str(mosquitto.port), cwd=folder, stdout=PIPE
    )


async def heard(mosquitto: Mosquitto, watch: list[str], publish: list[str], folder: Path) -> bytes:
    """Type a command that watches, then one that publishes until the first has got a message; return that message."""
    watching = await start(mosquitto, watch, folder, "-C", "1")
    hearing = asyncio.create_task(watching.communicate(), name="what is heard")
    async with asyncio.timeout(WITHIN_S):
        while not hearing.done():
            assert await (await start(mosquitto, publish, folder)).wait() == 0
            await asyncio.wait([hearing], timeout=0.1)
    return (await hearing)[0]


@pytest.mark.parametrize("words", typed("mosquitto_pub"), ids=" ".join)
async def test_a_job_is_published(words: list[str], mosquitto: Mosquitto, tmp_path: Path) -> None:
    (payload,) = re.findall(r"-f job\.json +# (\{.*\})", (REPOSITORY / "README.md").read_text())
    assert job_file.from_json(payload.encode()).stop.rounds == 5
    (tmp_path / "job.json").write_text(payload)
    watch = ["mosquitto_sub", "-t", words[words.index("-t") + 1]]
    assert await heard(mosquitto, watch, words, tmp_path) == f"{payload}\n".encode()


@pytest.mark.parametrize("words", typed("mosquitto_sub"), ids=" ".join)
async def test_events_are_watched(words: list[str], mosquitto: Mosquitto, tmp_path: Path) -> None:
    event = ["mosquitto_pub", "-t", "fl/progress/mine/round/completed", "-m", "an event"]
    assert await heard(mosquitto, words, event, tmp_path) == b"fl/progress/mine/round/completed an event\n"
