"""What a server that takes a job over reads of its earlier rounds."""

import msgspec
import pytest

import broker
from broker import topics
from broker.messages import progress
from broker.messages.job import Job
from broker.messages.job_record import JobRecord, Member
from broker.messages.progress import Progress, RoundCompleted, RoundFailed
from broker.messages.reports import Split
from broker.messages.round import BlobRef
from server import history
from server.selection import ClientHistory

FAILED = RoundFailed(round=2, reason="", counted=(), missing=("b",), policy="retry")
COMPLETED = RoundCompleted(
    round=1,
    counted=("a",),
    missing=("b",),
    samples=1,
    model=BlobRef("fl.models.demo.x", "ab" * 32, 5),
    split=Split(invocation_s=0, clients_start_s=0, training_s=0, aggregation_s=0, round_s=0),
    trained_s=0.0,
    metrics={},
    bytes_in=0,
    bytes_out=0,
)
RECORD = JobRecord(id="demo", job=Job(), round=3, cohort=(Member("a", "fake", "", "", 1),), last=COMPLETED)


async def test_it_is_read_from_the_log_of_events_up_to_the_last_round_that_ended() -> None:
    async with broker.connect("memory://history") as bus:
        await bus.publish(
            topics.progress("demo", "round", "completed"), progress.encode(Progress("demo", COMPLETED, 1.0, "1"))
        )
        await bus.publish(topics.progress("demo", "round", "failed"), b"not an event")
        await bus.publish(
            topics.progress("demo", "round", "failed"), progress.encode(Progress("demo", FAILED, 2.0, "2"))
        )
        assert await history.read(bus, RECORD) == {
            "a": ClientHistory(counted=(1,)),
            "b": ClientHistory(missed=(1, 2)),
        }


async def test_the_record_s_last_round_counts_even_if_its_event_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "QUIET_S", 0.0)
    async with broker.connect("memory://no-history") as bus:
        record = msgspec.structs.replace(RECORD, round=1, cohort=())
        assert await history.read(bus, record) == {"a": ClientHistory(counted=(1,)), "b": ClientHistory(missed=(1,))}


async def test_a_job_without_an_ended_round_has_none() -> None:
    async with broker.connect("memory://new") as bus:
        assert await history.read(bus, JobRecord(id="demo", job=Job())) == {}
