"""Writes down what a job does: `runs/<job>/` with job.toml, metrics.jsonl, clients.jsonl, the model and a plot."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from broker.messages import job as jobs
from broker.messages.job import Job
from broker.messages.progress import FINAL_EVENTS, ClientTraining, JobAccepted, ModelEvaluated, Progress, RoundCompleted


@dataclass
class Recorder:
    """One job's folder.

    Attributes:
        folder: made when the first event comes.
        job: what was asked for, once it is known; None too where a newer server accepted what this version can't read.
        rounds: what was written to metrics.jsonl.
    """

    folder: Path
    job: Job | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    _started: bool = False
    _training: dict[tuple[int, str], ClientTraining] = field(default_factory=dict)
    _completed: dict[int, RoundCompleted] = field(default_factory=dict)
    _evaluated: dict[int, ModelEvaluated] = field(default_factory=dict)

    def note(self, said: Progress) -> None:
        """Take an event into account; a round is written as soon as all of it is known."""
        match said.event:
            case JobAccepted(job=job) if self.job is None:
                self._start(job)
            case ClientTraining() as training:
                self._training[training.round, training.client] = training
            case RoundCompleted() as completed if (
                completed.round > self._last and completed.round not in self._completed
            ):
                self._completed[completed.round] = completed
                self._write_clients(completed)
                self._write_known()
            case ModelEvaluated() as evaluated:
                self._evaluated[evaluated.round] = evaluated
                self._write_known()
            case event if isinstance(event, FINAL_EVENTS):
                self._write_known(ended=True)
            case _:
                pass

    def keep_model(self, model: bytes) -> Path:
        """Write the final model; returns where it is."""
        path = self.folder / "model.safetensors"
        path.write_bytes(model)
        return path

    def _start(self, job: Job) -> None:
        self.job = job
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "job.toml").write_text(jobs.to_toml(job))
        for name in ("metrics.jsonl", "clients.jsonl"):
            (self.folder / name).write_bytes(b"")

    @property
    def _last(self) -> int:
        """The last round that is written."""
        return int(self.rounds[-1]["round"]) if self.rounds else 0

    def _is_new(self, round_: int) -> bool:
        return round_ > self._last and round_ not in self._completed

    def _write_known(self, *, ended: bool = False) -> None:
        """Rounds in order, each when its evaluation is there or none will come."""
        for round_ in sorted(self._completed):
            if not (ended or round_ in self._evaluated or self._stays_unevaluated(round_)):
                return
            self._write(row(self._completed.pop(round_), self._evaluated.pop(round_, None)))

    def _stays_unevaluated(self, round_: int) -> bool:
        """The newest round may turn out to be the last one, which always is evaluated."""
        every = 1 if self.job is None else self.job.evaluation.every
        due = bool(every) and (len(self.rounds) + 1) % every == 0
        return not every or (not due and round_ < max(self._completed))

    def _write(self, metrics: dict[str, Any]) -> None:
        self.rounds.append(metrics)
        self._append("metrics.jsonl", metrics)

    def _write_clients(self, completed: RoundCompleted) -> None:
        """Which client answered from where."""
        for client in completed.counted:
            training = self._training.get((completed.round, client))
            known = {} if training is None else msgspec.to_builtins(training)
            self._append("clients.jsonl", {"round": completed.round, "client": client, **known})
        self._training = {key: value for key, value in self._training.items() if key[0] > completed.round}

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def row(completed: RoundCompleted, evaluated: ModelEvaluated | None) -> dict[str, Any]:
    """A line of metrics.jsonl. Times in seconds; accuracy and loss are null where the round was not evaluated."""
    return {
        "round": completed.round,
        "accuracy": evaluated.accuracy if evaluated else None,
        "loss": evaluated.loss if evaluated else None,
        "clients": completed.counted,
        "missing": completed.missing,
        "samples": completed.samples,
        **msgspec.to_builtins(completed.split),
        "evaluation_s": evaluated.evaluation_s if evaluated else None,
        "trained_s": completed.trained_s,
        "bytes_in": completed.bytes_in,
        "bytes_out": completed.bytes_out,
        "model": completed.model.sha256,
        "client_metrics": completed.metrics,
    }
