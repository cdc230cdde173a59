"""What is saved of a job while this program is told to end."""

import asyncio
import io
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from broker.messages.errors import NoSuchModel
from fedkeeper.runs import follow, saving
from fedkeeper.runs.recorder import Recorder
from fedkeeper.sdk import Client

NO_SYSTEM = cast("Client", None)


async def save(folder: Path, said: io.StringIO) -> None:
    await follow._save_at_once(NO_SYSTEM, "demo", Recorder(folder), Console(file=said, width=200), lambda _: None)


async def test_a_model_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> None:
        raise NoSuchModel("demo", "last", ())

    monkeypatch.setattr(saving, "save", fail)
    await save(tmp_path, said := io.StringIO())
    assert said.getvalue().startswith("the last model was not saved: job demo has no model yet")


async def test_a_second_signal_ends_the_saving_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(saving, "save", wait)
    task = asyncio.create_task(save(tmp_path, io.StringIO()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
