"""A job's files: each round once, in order, as soon as everything about it is known."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.messages import job_file as jobs
from broker.messages.job import Job
from broker.messages.job_sections import Stop
from broker.messages.progress import (
    ClientTraining,
    Event,
    JobAccepted,
    JobCancelled,
    JobCompleted,
    JobFailed,
    ModelEvaluated,
    Progress,
    RoundCompleted,
    RoundFailed,
    UpdateCounted,
)
from fedkeeper.runs.recorder import Recorder


class Log:
    """A recorder and the files that it writes."""

    def __init__(self, folder: Path, example: RoundCompleted) -> None:
        self.recorder = Recorder(folder)
        self.folder = folder
        self._example = example

    def accept(self, *, every: int = 1, rounds: int = 10) -> None:
        spec = {"evaluation": {"every": every}, "stop": {"rounds": rounds}, "cohort": {"on_failure": "skip"}}
        self.note(JobAccepted(name="demo", job=jobs.from_dict(spec)))

    def note(self, *events: Event) -> None:
        for event in events:
            self.recorder.record(Progress("demo", event, 1.0, "id"))

    def complete(self, *rounds: int) -> None:
        self.note(*(msgspec.structs.replace(self._example, round=round_) for round_ in rounds))

    def evaluate(self, *rounds: int) -> None:
        for round_ in rounds:
            self.note(evaluated(round_))

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def written(self) -> list[tuple[int, float | None]]:
        assert [row["round"] for row in self.rows] == [row["round"] for row in self.recorder.rounds]
        return [(row["round"], row["accuracy"]) for row in self.rows]


def evaluated(round_: int) -> ModelEvaluated:
    """Round 3 has accuracy 0.3."""
    return ModelEvaluated(round=round_, accuracy=round_ / 10, loss=2.0, samples=360, evaluation_s=0.5, background=True)


@pytest.fixture
def log(tmp_path: Path, events: tuple[Event, ...]) -> Log:
    return Log(tmp_path / "runs" / "demo", next(event for event in events if isinstance(event, RoundCompleted)))


def test_a_row_has_every_metric(log: Log) -> None:
    log.accept()
    log.complete(1)
    log.evaluate(1)
    assert log.rows == [
        {
            "round": 1,
            "time_s": 1.0,
            "accuracy": 0.1,
            "loss": 2.0,
            "metrics": {"accuracy": 0.1, "loss": 2.0},
            "evaluation_clients": None,
            "clients": ["c-0", "c-1"],
            "missing": ["c-2"],
            "samples": 1200,
            "invocation_s": 0.01,
            "clients_start_s": 0.2,
            "training_s": 1.5,
            "aggregation_s": 0.04,
            "round_s": 1.75,
            "evaluation_s": 0.5,
            "trained_s": 2.5,
            "bytes_in": 3_180_080,
            "bytes_out": 1_590_040,
            "model": "ab" * 32,
            "client_metrics": {"loss": 0.5},
        }
    ]


def test_the_job_is_written_as_accepted(log: Log) -> None:
    log.accept(rounds=7)
    assert log.recorder.job == jobs.from_text((log.folder / "job.toml").read_text())
    assert log.recorder.job is not None
    assert log.recorder.job.stop.rounds == 7
    assert log.rows == []


def test_a_job_that_is_accepted_twice_keeps_its_files(log: Log) -> None:
    accepted = JobAccepted(name="demo", job=Job(name="demo", stop=Stop(rounds=3)))
    log.note(accepted)
    log.complete(1)
    log.note(accepted)
    assert (log.folder / "clients.jsonl").read_bytes()


def test_a_round_waits_for_its_evaluation(log: Log) -> None:
    log.accept()
    log.complete(1)
    assert log.written == []
    log.evaluate(1)
    assert log.written == [(1, 0.1)]


def test_an_evaluation_in_the_background_may_come_rounds_later(log: Log) -> None:
    log.accept()
    log.complete(1, 2, 3)
    log.evaluate(2)
    assert log.written == []
    log.evaluate(1)
    assert log.written == [(1, 0.1), (2, 0.2)]
    log.evaluate(3)
    assert log.written == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_without_evaluation_every_round_is_written_at_once(log: Log) -> None:
    log.accept(every=0)
    for round_ in (1, 2, 3):
        log.complete(round_)
        assert log.written[-1] == (round_, None)
    log.note(RoundFailed(round=4, reason="", counted=(), policy="skip"))
    assert len(log.written) == 3


def test_every_second_round_is_evaluated(log: Log) -> None:
    log.accept(every=2)
    log.complete(1)
    log.complete(2, 3)
    assert log.written == [(1, None)]
    log.evaluate(2)
    assert log.written == [(1, None), (2, 0.2)]
    log.complete(4)
    assert log.written[2:] == [(3, None)]
    log.evaluate(4)
    assert log.written[2:] == [(3, None), (4, 0.4)]


def test_every_third_round_is_evaluated(log: Log) -> None:
    log.accept(every=3)
    log.complete(1, 2, 3, 4)
    assert log.written == [(1, None), (2, None)]
    log.evaluate(3)
    assert log.written == [(1, None), (2, None), (3, 0.3)]


def test_the_last_round_is_always_evaluated(log: Log) -> None:
    log.accept(every=2, rounds=3)
    log.complete(1, 2)
    log.evaluate(2)
    log.complete(3)
    log.evaluate(3)
    assert log.written == [(1, None), (2, 0.2), (3, 0.3)]


def test_only_completed_rounds_count_for_evaluation_every(log: Log) -> None:
    log.accept(every=2)
    log.complete(2, 5)
    assert log.written == [(2, None)]
    log.evaluate(5)
    assert log.written == [(2, None), (5, 0.5)]


def test_the_end_writes_rounds_without_an_evaluation(log: Log, events: tuple[Event, ...]) -> None:
    for end in (event for event in events if isinstance(event, JobCompleted | JobFailed | JobCancelled)):
        fresh = Log(log.folder / end.what, log._example)
        fresh.accept()
        fresh.complete(1, 2)
        fresh.evaluate(2)
        assert fresh.written == []
        fresh.note(end)
        assert fresh.written == [(1, None), (2, 0.2)]


def test_repeated_events_are_written_once(log: Log) -> None:
    for _ in range(2):
        log.accept()
        log.complete(1)
        log.complete(1)
        log.evaluate(1)
        log.evaluate(1)
    assert log.written == [(1, 0.1)]
    log.complete(2)
    log.evaluate(2)
    log.complete(1, 2)
    log.note(JobCancelled(rounds=2, model=None))
    assert log.written == [(1, 0.1), (2, 0.2)]


def test_a_rejected_job_has_no_folder(log: Log, events: tuple[Event, ...]) -> None:
    log.note(next(event for event in events if event.what == "job.rejected"))
    assert not log.folder.exists()


def test_clients_jsonl_has_the_platform_and_activation_of_each_client(log: Log) -> None:
    log.accept()
    log.note(ClientTraining(round=1, client="c-0", platform="gcf", activation="act-7", attempt=2, cold=True))
    log.complete(1, 1)
    lines = [json.loads(line) for line in (log.folder / "clients.jsonl").read_text().splitlines()]
    assert lines == [
        {"round": 1, "client": "c-0", "platform": "gcf", "activation": "act-7", "attempt": 2, "cold": True},
        {"round": 1, "client": "c-1"},
    ]


def counted(round_: int, client: str, **facts: Any) -> UpdateCounted:
    metrics = {"loss": 0.25, "mine": 3.0}
    fields: dict[str, Any] = {"attempt": 1, "samples": 600, "counted": 1, "of": 2, "trained_s": 1.5, "metrics": metrics}
    return UpdateCounted(round=round_, client=client, **{**fields, **facts})


def test_clients_jsonl_has_what_each_client_s_training_gave(log: Log) -> None:
    log.accept()
    log.note(counted(1, "c-0", judged=20, evaluation={"auroc": 0.75}, processor="aarch64 NEON"))
    log.complete(1)
    first = json.loads((log.folder / "clients.jsonl").read_text().splitlines()[0])
    assert first == {
        "round": 1,
        "client": "c-0",
        "purpose": "train",
        "attempt": 1,
        "loss": 0.25,
        "samples": 600,
        "seconds": 1.5,
        "metrics": {"loss": 0.25, "mine": 3.0},
        "judged": 20,
        "evaluation": {"auroc": 0.75},
        "processor": "aarch64 NEON",
    }


def test_clients_that_judge_after_the_last_round_have_a_row(log: Log, events: tuple[Event, ...]) -> None:
    log.accept()
    log.complete(1)
    log.note(counted(2, "c-1", judged=20), next(event for event in events if isinstance(event, JobCompleted)))
    last = json.loads((log.folder / "clients.jsonl").read_text().splitlines()[-1])
    assert (last["round"], last["client"], last["judged"]) == (2, "c-1", 20)


def test_a_round_waits_for_the_clients_judgement_which_comes_in_the_next_round(log: Log) -> None:
    spec = {"data": {"dataset": "own"}, "evaluation": {"holdout": 0.2}}
    log.note(JobAccepted(name="demo", job=jobs.from_dict(spec)))
    judged = msgspec.structs.replace(evaluated(1), by="clients", clients=8, metrics={"auroc": 0.75})
    log.complete(1)
    assert log.rows == []
    log.note(judged)
    log.complete(2)
    assert [row["round"] for row in log.rows] == [1]
    assert log.rows[0]["evaluation_clients"]["metrics"] == {"auroc": 0.75}
    assert (log.rows[0]["evaluation_clients"]["clients"], log.rows[0]["accuracy"]) == (8, None)
    log.complete(3, 4)
    assert [row["round"] for row in log.rows] == [1, 2], "round 2 was not judged, and will not be"


def test_two_writers_of_a_folder_leave_each_round_once(log: Log, events: tuple[Event, ...]) -> None:
    second = Log(log.folder, next(event for event in events if isinstance(event, RoundCompleted)))
    log.accept()
    log.complete(1, 2, 3)
    log.evaluate(1, 2)
    second.accept()
    second.complete(1, 2, 3)
    second.evaluate(1, 2)
    second.recorder.finish()
    assert second.written == [(1, 0.1), (2, 0.2), (3, None)]
    log.evaluate(3)
    assert log.written == [(1, 0.1), (2, 0.2), (3, 0.3)]
    log.complete(4)
    log.evaluate(4)
    assert [accuracy for _, accuracy in log.written] == [0.1, 0.2, 0.3, 0.4]
    clients = [json.loads(line) for line in (log.folder / "clients.jsonl").read_text().splitlines()]
    assert [(row["round"], row["client"]) for row in clients] == [
        (round_, client) for round_ in (1, 2, 3, 4) for client in ("c-0", "c-1")
    ]


def test_a_writer_that_was_overtaken_leaves_the_later_rounds(log: Log, events: tuple[Event, ...]) -> None:
    second = Log(log.folder, next(event for event in events if isinstance(event, RoundCompleted)))
    log.accept(every=0)
    second.accept(every=0)
    log.complete(1, 2, 3)
    second.complete(1, 2)
    assert [row["round"] for row in log.rows] == [1, 2, 3]


def test_lines_that_another_writer_adds_meanwhile_are_not_lost(log: Log, events: tuple[Event, ...]) -> None:
    second = Log(log.folder, next(event for event in events if isinstance(event, RoundCompleted)))
    log.accept(every=0)
    log.complete(1)
    second.accept(every=0)
    log.complete(2, 3)
    second.complete(1, 2)
    assert [row["round"] for row in log.rows] == [1, 2, 3]
    second.complete(3, 4)
    log.complete(4, 5)
    assert [row["round"] for row in log.rows] == [1, 2, 3, 4, 5]
