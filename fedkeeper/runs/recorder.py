"""Records a job's events in its run folder: job.toml, metrics.jsonl and clients.jsonl."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from broker.messages import job_file as jobs
from broker.messages.job import Job
from broker.messages.progress import (
    FINAL_EVENTS,
    ClientTraining,
    JobAccepted,
    JobCompleted,
    ModelEvaluated,
    Progress,
    RoundCompleted,
    UpdateCounted,
)
from fedkeeper import files
from fedkeeper.display import measured
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs.lines import Lines


@dataclass
class Recorder:
    """Writes the files of one job.

    Attributes:
        folder: the job's folder, created at the first event.
        job: the job as accepted; None: not known yet, or a newer server accepted a job that this version can't read.
        rounds: the rows that metrics.jsonl has so far.
        is_latest: whether `latest` beside the folder points to it from then on.
    """

    folder: Path
    job: Job | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    is_latest: bool = True
    _metrics: Lines | None = None
    _clients: Lines | None = None
    _times_s: dict[int, float] = field(default_factory=dict)
    _training: dict[tuple[int, str], ClientTraining] = field(default_factory=dict)
    _completed: dict[int, RoundCompleted] = field(default_factory=dict)
    _evaluated: dict[int, ModelEvaluated] = field(default_factory=dict)
    _judged: dict[int, ModelEvaluated] = field(default_factory=dict)
    _counted: dict[tuple[int, str], UpdateCounted] = field(default_factory=dict)

    def record(self, progress: Progress) -> None:
        """Process an event of the job. A round is written as soon as everything about it is known."""
        last_written = int(self.rounds[-1]["round"]) if self.rounds else 0
        match progress.event:
            case JobAccepted(job=job):
                self.begin(job)
            case ClientTraining() as training:
                self._training[training.round, training.client] = training
            case RoundCompleted() as completed if (
                completed.round > last_written and completed.round not in self._completed
            ):
                self._completed[completed.round] = completed
                self._times_s[completed.round] = progress.time_s
                self._write_clients(completed.round, completed.counted)
                self._write_rounds()
            case UpdateCounted() as counted:
                self._counted[counted.round, counted.client] = counted
            case ModelEvaluated() as evaluated:
                (self._judged if evaluated.by == "clients" else self._evaluated)[evaluated.round] = evaluated
                self._write_rounds()
            case event if isinstance(event, FINAL_EVENTS):
                # After the last round, clients judge its model.
                if isinstance(event, JobCompleted) and self._counted:
                    self._write_clients(max(number for number, _ in self._counted), ())
                self.finish()
            case _:
                pass

    def begin(self, job: Job) -> None:
        """Write the job's file, unless it is written.

        Args:
            job: the job as accepted.

        Raises:
            BadOption: the folder has the results of another job, or can't be written.
            NotSaved: a file can't be written.
        """
        if self.job is not None:
            return
        run_folder.check_is_of(self.folder, job)
        files.check_folder(self.folder, "--out")
        self.job = job
        files.write(self.folder / run_folder.JOB, jobs.to_toml(job).encode())
        self._metrics, self._clients = (Lines(self.folder / name) for name in (run_folder.METRICS, run_folder.CLIENTS))
        # Now, and not at the end: a run that is killed goes on by it.
        if self.is_latest:
            run_folder.mark_latest(self.folder)

    def finish(self) -> None:
        """Write what is known of the completed rounds: nothing more is expected.

        Files of an earlier reader of the same job stay as they are if they have more lines.

        Raises:
            NotSaved: the folder can't be written.
        """
        self._write_rounds(ended=True)
        for lines in (self._metrics, self._clients):
            if lines is not None:
                lines.finish()

    def _write_rounds(self, *, ended: bool = False) -> None:
        """Write completed rounds in order, up to the first one whose evaluation is still expected."""
        for round_ in sorted(self._completed):
            if self._is_evaluation_expected(round_) and not ended:
                return
            evaluations = self._evaluated.pop(round_, None), self._judged.pop(round_, None)
            time_s = self._times_s.pop(round_, None)
            metrics = metrics_row(self._completed.pop(round_), *evaluations, time_s=time_s)
            self.rounds.append(metrics)
            _append(self._metrics, round_, [metrics])

    def _is_evaluation_expected(self, round_: int) -> bool:
        """Whether an evaluation of a completed round is still to come."""
        newest = max(self._completed)
        # Clients judge a round's model in the next round.
        if self.job is not None and self.job.is_judged_by_clients and round_ not in self._judged:
            return round_ == newest or sorted(self._completed).index(round_) == len(self._completed) - 2
        every = 1 if self.job is None else self.job.evaluation.every
        if round_ in self._evaluated or not every or (self.job is not None and not self.job.test_data):
            return False
        # The newest round may be the job's last one, which is always evaluated.
        return round_ == newest or (len(self.rounds) + 1) % every == 0

    def _write_clients(self, round_: int, clients: Iterable[str]) -> None:
        """Write what each client of a round has answered, and where it trained."""
        answered = {client for number, client in self._counted if number == round_}
        keys = [(round_, client) for client in sorted({*clients, *answered})]
        rows = [client_row(*key, self._counted.get(key), self._training.get(key)) for key in keys]
        _append(self._clients, round_, rows)
        self._counted = {key: counted for key, counted in self._counted.items() if key[0] > round_}
        self._training = {key: training for key, training in self._training.items() if key[0] > round_}


def _append(lines: Lines | None, round_: int, rows: Iterable[dict[str, Any]]) -> None:
    if lines is not None:
        lines.append(round_, map(msgspec.json.encode, rows))


def client_row(
    round_: int, client: str, counted: UpdateCounted | None, training: ClientTraining | None
) -> dict[str, Any]:
    """Return a client's row of clients.jsonl: where it trained in a round, and what that gave.

    Args:
        round_: number of the round.
        client: the client's id.
        counted: its counted update; None: the event is missing.
        training: what its bridge has reported; None: nothing.
    """
    where = {} if training is None else msgspec.to_builtins(training)
    if counted is None:
        return {"round": round_, "client": client, **where}
    return {
        "round": round_,
        "client": client,
        **where,
        "attempt": counted.attempt,
        "loss": counted.metrics.get("loss"),
        "samples": counted.samples,
        "seconds": counted.trained_s,
        "metrics": counted.metrics,
        "judged": counted.judged,
        "evaluation": counted.evaluation,
        "purpose": counted.purpose,
        "processor": counted.processor,
    }


def metrics_row(
    completed: RoundCompleted,
    evaluated: ModelEvaluated | None,
    judged: ModelEvaluated | None = None,
    *,
    time_s: float | None = None,
) -> dict[str, Any]:
    """Return a round's row of metrics.jsonl. Times are in seconds.

    Args:
        completed: the completed round.
        evaluated: the server's evaluation of its model; None: `accuracy`, `loss` and `evaluation_s` are null.
        judged: the clients' evaluation of its model; None: `evaluation_clients` is null.
        time_s: when the round was completed, in seconds since the epoch; None or 0: not known.
    """
    return {
        "round": completed.round,
        "time_s": time_s or None,
        "accuracy": evaluated.accuracy if evaluated else None,
        "loss": evaluated.loss if evaluated else None,
        "metrics": measured.metrics_of(evaluated) if evaluated else {},
        "evaluation_clients": None if judged is None else _judgement(judged),
        "clients": completed.counted,
        "missing": completed.missing,
        "samples": completed.samples,
        **msgspec.to_builtins(completed.split),
        "evaluation_s": (evaluated.evaluation_s or None) if evaluated else None,
        "trained_s": completed.trained_s,
        "bytes_in": completed.bytes_in,
        "bytes_out": completed.bytes_out,
        "model": completed.model.sha256,
        "client_metrics": completed.metrics,
    }


def _judgement(event: ModelEvaluated) -> dict[str, Any]:
    fields = ("metrics", "samples", "clients", "spread", "left_out", "evaluation_s")
    return {name: msgspec.to_builtins(getattr(event, name)) for name in fields}
