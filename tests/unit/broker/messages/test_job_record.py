"""The job record: encoding, decoding and phases."""

import msgspec
import pytest

from broker.messages import codec, job_record
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.job import Job
from broker.messages.job_record import BestModel, JobRecord, Member
from broker.messages.job_sections import Cohort, Model
from broker.messages.progress import Event, JobStarted, RoundCompleted, RoundFailed
from broker.messages.round import BlobRef

MODEL = BlobRef("fl.models.demo.x", "ab" * 32, 5)


@pytest.fixture
def record(events: tuple[Event, ...]) -> JobRecord:
    return JobRecord(
        id="demo",
        job=Job(name="demo", cohort=Cohort(quorum=0.8)),
        phase="running",
        created_s=1_700_000_000.125,
        round=3,
        model=MODEL,
        server_state=MODEL,
        along=MODEL,
        frozen=("embedding.weight",),
        buffers=("norm.running_mean",),
        cohort=(Member("c-0", "local", "", "file:///c-0", 600), Member("c-1", "gcf", "https://x", "gs://b/1", 0)),
        holders=7,
        opened_s=1_700_000_001.0,
        deadline_s=1_700_000_301.0,
        invited=True,
        renewed_s=12.0,
        closed=17,
        counted={"c-0": 1},
        failures=1,
        state_tables=(MODEL,),
        states={"c-1": MODEL},
        done=2,
        last=next(event for event in events if isinstance(event, RoundCompleted)),
        started=next(event for event in events if isinstance(event, JobStarted)),
        failed=next(event for event in events if isinstance(event, RoundFailed)),
        evaluated=2,
        accuracy=0.5,
        metrics={"accuracy": 0.5},
        best=BestModel(2, "accuracy", 0.5, MODEL),
        watched=0.25,
        without_better=1,
        kept={2: MODEL},
        frozen_model=MODEL,
        frozen_digest="cd" * 32,
        personal=("head.weight",),
        processors={"x86-64 AMD AVX2": 7, "": 1},
        starts={"the evaluation of round 2": 1},
        superseded=(MODEL,),
        waiting="1 of 5 clients",
        ended_s=1_700_000_400.5,
        changes=9,
        announced=True,
        submission="full.job.submit.ab12",
        epoch="19ac0f3b2d1",
    )


def test_a_record_comes_back(record: JobRecord) -> None:
    got = codec.decode(JobRecord, codec.encode(record))
    assert got == record
    assert isinstance(got.cohort[0], Member)


def test_no_field_of_the_record_is_left_at_its_default(record: JobRecord) -> None:
    # Otherwise a field that does not come back would not show above.
    fresh = JobRecord(id="demo", job=record.job)
    same = {name for name in JobRecord.__struct_fields__ if getattr(fresh, name) == getattr(record, name)}
    assert same == {"id", "job", "reason", "schema"}


def test_a_new_record_comes_back() -> None:
    fresh = JobRecord(id="demo", job=Job())
    assert codec.decode(JobRecord, codec.encode(fresh)) == fresh
    assert (fresh.phase, fresh.has_ended, fresh.model) == ("accepted", False, None)


@pytest.mark.parametrize(
    ("phase", "ended"),
    [("accepted", False), ("running", False), ("completed", True), ("failed", True), ("cancelled", True)],
)
def test_a_record_has_ended_in_each_last_phase(record: JobRecord, phase: job_record.Phase, ended: bool) -> None:  # noqa: FBT001 (a column of the table)
    assert msgspec.structs.replace(record, phase=phase).has_ended is ended


def test_a_failed_job_closes_its_round_and_keeps_its_model(record: JobRecord) -> None:
    failed = job_record.as_failed(record, "no clients")
    assert (failed.phase, failed.reason, failed.cohort) == ("failed", "no clients", ())
    assert (failed.model, failed.done, failed.round) == (record.model, record.done, record.round)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"[]",
        b"{}",
        b'{"id":"demo"}',
        b'{"id":"\xff","job":{}}',
        b'{"id":"demo","job":{"cohort":{"clients":0}}}',
        b'{"id":"demo","job":{},"phase":"paused"}',
        b'{"id":"demo","job":{},"more":' + b"[" * 50_000,
    ],
)
def test_an_invalid_record_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="not a valid JobRecord"):
        codec.decode(JobRecord, payload)


def test_unknown_fields_of_a_record_and_its_job_are_ignored(record: JobRecord) -> None:
    raw = msgspec.to_builtins(record)
    raw["flushes"] = [1]
    raw["job"]["cohort"]["select"] = "round-robin"
    raw["job"]["buffer"] = {"size": 5}
    assert codec.decode(JobRecord, msgspec.json.encode(raw)) == record


def test_a_record_of_a_newer_schema_is_refused(record: JobRecord) -> None:
    for raw in ({"schema": 2}, {**msgspec.to_builtins(record), "schema": 7}):
        with pytest.raises(SchemaTooNew, match="upgrade this program"):
            codec.decode(JobRecord, msgspec.json.encode(raw))


def test_a_submitted_job_is_recognised_after_its_code_was_set() -> None:
    submitted = Job(model=Model(type="mine:Net"))
    begun = JobRecord(id="demo", job=Job(model=Model(type="mine:Net", code="ab" * 32)))
    assert begun.is_of(submitted)
    assert begun.is_of(begun.job)
    assert not begun.is_of(Job(model=Model(type="mine:Net", code="cd" * 32)))
    assert not begun.is_of(Job(seed=2, model=Model(type="mine:Net")))
