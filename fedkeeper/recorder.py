"""Records a job's results in `runs/<job>/`: job.toml, metrics.jsonl, clients.jsonl and the model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from broker.messages import job_file as jobs
from broker.messages.job import Job
from broker.messages.progress import FINAL_EVENTS, ClientTraining, JobAccepted, ModelEvaluated, Progress, RoundCompleted


@dataclass
class Recorder:
    """Writes the files of one job.

    Attributes:
        folder: the job's folder, created at the first event.
        job: the job as accepted; None: not known yet, or a newer server accepted a job that this version can't read.
        rounds: the rows that metrics.jsonl has so far.
    """

    folder: Path
    job: Job | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    _training: dict[tuple[int, str], ClientTraining] = field(default_factory=dict)
    _completed: dict[int, RoundCompleted] = field(default_factory=dict)
    _evaluated: dict[int, ModelEvaluated] = field(default_factory=dict)

    def record(self, progress: Progress) -> None:
        """Process an event of the job. A round is written as soon as everything about it is known."""
        last_written = int(self.rounds[-1]["round"]) if self.rounds else 0
        match progress.event:
            case JobAccepted(job=job) if self.job is None:
                self.job = job
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / "job.toml").write_text(jobs.to_toml(job))
                for name in ("metrics.jsonl", "clients.jsonl"):
                    (self.folder / name).write_bytes(b"")
            case ClientTraining() as training:
                self._training[training.round, training.client] = training
            case RoundCompleted() as completed if (
                completed.round > last_written and completed.round not in self._completed
            ):
                self._completed[completed.round] = completed
                self._write_clients(completed)
                self._write_rounds()
            case ModelEvaluated() as evaluated:
                self._evaluated[evaluated.round] = evaluated
                self._write_rounds()
            case event if isinstance(event, FINAL_EVENTS):
                self._write_rounds(ended=True)
            case _:
                pass

    def save_model(self, model: bytes) -> Path:
        """Write the final model and return the file's path."""
        path = self.folder / "model.safetensors"
        path.write_bytes(model)
        return path

    def _write_rounds(self, *, ended: bool = False) -> None:
        """Write completed rounds in order, up to the first one whose evaluation is still expected."""
        for round_ in sorted(self._completed):
            if self._is_evaluation_expected(round_) and not ended:
                return
            metrics = metrics_row(self._completed.pop(round_), self._evaluated.pop(round_, None))
            self.rounds.append(metrics)
            self._append("metrics.jsonl", metrics)

    def _is_evaluation_expected(self, round_: int) -> bool:
        """Whether the evaluation of a completed round is still to come."""
        every = 1 if self.job is None else self.job.evaluation.every
        if not every or round_ in self._evaluated:
            return False
        # The newest round may be the job's last one, which is always evaluated.
        is_newest = round_ == max(self._completed)
        return is_newest or (len(self.rounds) + 1) % every == 0

    def _write_clients(self, completed: RoundCompleted) -> None:
        """Write where each counted client of a round trained."""
        for client in completed.counted:
            training = self._training.get((completed.round, client))
            details = {} if training is None else msgspec.to_builtins(training)
            self._append("clients.jsonl", {"round": completed.round, "client": client, **details})
        self._training = {key: value for key, value in self._training.items() if key[0] > completed.round}

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def metrics_row(completed: RoundCompleted, evaluated: ModelEvaluated | None) -> dict[str, Any]:
    """Return a round's row of metrics.jsonl. Times are in seconds.

    Args:
        completed: the completed round.
        evaluated: the evaluation of its model; None: `accuracy`, `loss` and `evaluation_s` are null.
    """
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
