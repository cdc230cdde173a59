"""What the benchmark of the three platforms keeps of its rounds, for the paper's Figure 5."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks import fabric_round
from benchmarks.paper import figures
from broker.messages.job import Job
from broker.messages.progress import ClientTraining, Event, JobCompleted, Progress, RoundCompleted
from broker.messages.reports import Split
from broker.messages.round import BlobRef

MODEL = BlobRef("fl.models.demo.x", "ab" * 32, 5)


def completed(round_: int, counted: tuple[str, ...]) -> RoundCompleted:
    return RoundCompleted(
        round=round_,
        counted=counted,
        missing=(),
        samples=1,
        model=MODEL,
        split=Split(invocation_s=0.123, clients_start_s=1, training_s=2, aggregation_s=0.5, round_s=3.623),
        trained_s=1.0,
        metrics={},
        bytes_in=0,
        bytes_out=9,
    )


def training(round_: int, client: str, *, cold: bool) -> ClientTraining:
    return ClientTraining(round=round_, client=client, platform="gcf", activation="a", attempt=1, cold=cold)


class System:
    """Stands for the client of a system whose job has these events."""

    def __init__(self, *events: Event) -> None:
        self.events = events

    async def submit(self, _: Job) -> str:
        return "demo"

    async def watch(self, job: str) -> AsyncIterator[Progress]:
        for event in self.events:
            yield Progress(job=job, event=event, time_s=0.0, id="")


async def test_each_round_has_its_phases_and_its_cold_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric_round, "count_processes", Counter)
    system: Any = System(
        training(1, "a", cold=True),
        training(1, "b", cold=True),
        completed(1, ("a", "b")),
        training(2, "a", cold=False),
        training(2, "b", cold=True),
        completed(2, ("a", "b")),
        JobCompleted(reason="", rounds=2, accuracy=0.5, model=MODEL),
    )
    first, second = await fabric_round.train(system, Job())
    assert (first["counted"], first["cold"], second["cold"]) == (2, 2, 1)
    assert [first[phase] for phase in figures.PHASES] == [0.12, 1, 2, 0.5]
