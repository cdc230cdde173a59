"""The command `watch`: what it says when it is stopped, and that it lets go of the events that it reads."""

from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import broker
from broker import topics
from broker.messages import codec
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobCancelled, Progress
from fedkeeper import running
from fedkeeper.commands import watch
from fedkeeper.display import screen
from fedkeeper.runs import follow
from tests.support import fakes
from tests.support.command import call


async def test_who_stops_it_while_it_saves_is_told_that_the_job_has_ended(
    memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    async def end(*_: Any, on_end: Any, **__: Any) -> None:
        on_end()

    monkeypatch.setattr(follow, "follow", end)
    monkeypatch.setattr(running, "say_when_stopped", said.append)
    async with broker.connect(memory_url) as bus:
        await bus.put(topics.job_record("mine"), codec.encode(JobRecord(id="mine", job=fakes.job("mine"))))
        await call(watch.watch, "mine", url=memory_url, out=tmp_path)
    assert ["job mine goes on" in said[0], "job mine has ended" in said[-1]] == [True, True]


async def test_events_are_read_no_longer_when_they_can_not_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def events(job: str, **_: Any) -> AsyncGenerator[Progress, None]:
        try:
            yield Progress(job, JobCancelled(rounds=1, model=None), 0.0, "1")
        finally:
            ended.append(job)

    def fail(_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(screen, "print_json", fail)
    sdk: Any = SimpleNamespace(watch=events)
    with pytest.raises(BrokenPipeError) as failed:
        await watch._print_json(sdk, "mine", "first")
    assert (failed.type, ended) == (BrokenPipeError, ["mine"])
