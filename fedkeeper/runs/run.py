"""What a job has left in its run folder, for programs and notebooks."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from broker.messages.job import Job
from broker.support import notebook
from fedkeeper.display import measured
from fedkeeper.errors import Missing, NoSuchFile
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import metric, plot, stored
from fedkeeper.runs.stored import StoredRun

# Imported where they are used: a program that only reads metrics needs none of them.
if TYPE_CHECKING:
    from broker.messages.tensors import Tensors
    from fedkeeper.runs.picture import Picture

_DATE: Final = re.compile(r"^\d{4}-\d\d-\d\d-")

Which = Literal["last", "best"]
"""The last model, or the best one by `evaluation.best`."""


def load_run(folder: str | Path = "runs/latest") -> "Run":
    """Return what a job has left in a folder, such as `runs/latest`.

    Args:
        folder: the run folder.

    Raises:
        Missing: it is no run folder.
    """
    path = Path(folder)
    if not (path / run_folder.JOB).is_file():
        raise NoSuchFile(f"{path} has no {run_folder.JOB}: give the folder of a run, such as runs/latest")
    return Run(path.resolve())


@dataclass(frozen=True)
class Run:
    """A run: the folder that a job has left, and what is in it. `fedkeeper.run` and `fedkeeper.load_run` return it.

    Attributes:
        folder: the run folder.
    """

    folder: Path

    @property
    def id(self) -> str:
        """The job's id."""
        return _DATE.sub("", self.folder.name)

    @cached_property
    def job(self) -> Job:
        """The job as it was accepted.

        Raises:
            Missing: job.toml is not there or is damaged.
        """
        if self._stored.job is None:
            raise Missing(f"{self.folder / run_folder.JOB} is missing")
        return self._stored.job

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The completed rounds: a dict for each row of metrics.jsonl, with what was measured and the times in seconds.

        Raises:
            Missing: metrics.jsonl is not there or is damaged.
        """
        return self._stored.rows

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured of the last round's model: by the server, else by clients on data that they held out."""
        if not self.rounds:
            return {}
        parts = metric.parts(self.rounds[-1])
        return parts["server"] or parts["clients"]

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the last round's model; None: it was not measured."""
        return self.metrics.get("accuracy")

    @property
    def loss(self) -> float | None:
        """Loss of the last round's model where it was judged; None: it was not."""
        return self.metrics.get("loss")

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best round, by `evaluation.best` or else by what was measured; None: nothing was."""
        chosen = metric.choose(self.job, self.rounds)
        better, points = chosen.direction(self.job), chosen.points(self.rounds)
        if not points or better is None:
            return None
        number, _ = (max if better == "max" else min)(points, key=lambda point: point[1])
        return next(row for row in self.rounds if row["round"] == number)

    @property
    def digest(self) -> str:
        """SHA-256 digest of the last round's model, 64 hexadecimal digits; empty: no round was completed."""
        return str(self.rounds[-1]["model"]) if self.rounds else ""

    @property
    def model_file(self) -> Path:
        """The path of the last model, a safetensors file.

        Raises:
            Missing: the run has no model.
        """
        return self._file("last")

    @property
    def model(self) -> "Tensors":
        """The last model: a read-only numpy array for each tensor. bfloat16 is a dtype of the package ml_dtypes.

        Raises:
            Missing: the run has no model.
            DecodeError: its file is damaged.
        """
        from broker.messages import tensors

        return tensors.decode(self._file("last").read_bytes())[0]

    def state_dict(self, which: Which = "last") -> dict[str, Any]:
        """Return a model for torch: `net.load_state_dict(run.state_dict())`.

        Args:
            which: the last model, or the best one by `evaluation.best`.

        Raises:
            Missing: the run has no such model, or torch is not installed.
        """
        file = self._file(which)
        try:
            from safetensors.torch import load_file
        except ModuleNotFoundError as exc:
            raise Missing(f"{exc.name} is not installed: it is needed to load a model for torch") from exc
        tensors: dict[str, Any] = load_file(file)
        return tensors

    def plot(self) -> "Picture":
        """Return a figure of matplotlib: what was measured by round, and where the time of a round went.

        Raises:
            Missing: matplotlib is not installed, or the run has no metrics.
        """
        return plot.figure([self._stored])

    @cached_property
    def _stored(self) -> StoredRun:
        return stored.read(self.folder)

    def _file(self, which: Which) -> Path:
        from fedkeeper.runs import model_file

        file = self.folder / model_file.name_of(which)
        if not file.is_file():
            hint = (
                "; the job names no metric in evaluation.best"
                if which == "best" and not self.job.evaluation.best
                else ""
            )
            raise Missing(f"{self.folder} has no {which} model{hint}")
        return file

    def _repr_html_(self) -> str:
        rows = [
            ("rounds", f"{len(self.rounds)} of at most {self.job.stop.rounds}"),
            ("result", measured.describe(self.metrics, measured.names(self.job, self.metrics))),
            ("model digest", self.digest),
            ("folder", self.folder),
        ]
        return notebook.facts(self.id, rows)
