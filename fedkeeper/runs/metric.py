"""Which metric a run is judged by, and its values in the rows of metrics.jsonl. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

from broker.messages import metrics
from broker.messages.job import Job
from broker.messages.job_sections import Direction
from fedkeeper.display import measured
from fedkeeper.errors import BadOption

Part = Literal["server", "clients", "training"]

PARTS: Final[tuple[Part, ...]] = ("server", "clients", "training")
"""Whose values are taken, the first that has any: the server's test, the clients' held-out samples, the training."""

Row = dict[str, Any]


class Metric(NamedTuple):
    """A metric, and the part of a row that has it."""

    name: str
    part: Part

    @property
    def title(self) -> str:
        """The metric for people, such as `Test accuracy`."""
        whose = {"server": "Test", "clients": "Held-out", "training": "Training"}[self.part]
        return f"{whose} {self.name}"

    def value(self, row: Row) -> float | None:
        """Return the metric's value in a round; None: it was not measured."""
        value: float | None = parts(row)[self.part].get(self.name)
        return value

    def points(self, rows: Iterable[Row]) -> list[tuple[int, float]]:
        """Return the rounds in which it was measured, and its values."""
        return [(row["round"], value) for row in rows if (value := self.value(row)) is not None]

    def direction(self, job: Job | None) -> Direction | None:
        """Return which values are better; None: nobody has said it."""
        return metrics.direction(self.name, {} if job is None else job.evaluation.directions)

    def beside(self) -> "Metric":
        """Return the loss of the same judge."""
        return Metric("loss", self.part)


def choose(job: Job | None, rows: Sequence[Row], wanted: str = "") -> Metric:
    """Return the metric by which runs are compared.

    That is the one which decides in the job, else the accuracy, else the first one that was measured beside the loss.

    Args:
        job: the first run's job; None: not known.
        rows: the rows of all runs.
        wanted: the metric that a person asks for; empty: none.

    Raises:
        BadOption: the wanted metric was not measured.
    """
    measured_in = {part: _names(rows, part) for part in PARTS}
    if wanted:
        part = next((part for part in PARTS if wanted in measured_in[part]), None)
        if part is None:
            known = ", ".join(dict.fromkeys(name for part in PARTS for name in measured_in[part])) or "nothing"
            raise BadOption(f"--metric {wanted}: not measured in these runs; they have {known}")
        return Metric(wanted, part)
    for part in PARTS:
        if found := measured_in[part]:
            ranked = [*measured.names(job, ()), "accuracy", *(name for name in found if name != "loss"), "loss"]
            if part == "training":
                ranked.insert(0, "loss")
            return Metric(next(name for name in ranked if name in found), part)
    return Metric("accuracy", "server")


def _names(rows: Sequence[Row], part: Part) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in parts(row)[part]))


def parts(row: Row) -> dict[Part, dict[str, float]]:
    """Return what was measured in a round. Version 0.1 wrote only `accuracy` and `loss` of the server's evaluation."""
    pair = {name: row[name] for name in ("accuracy", "loss") if row.get(name) is not None}
    return {
        "server": pair | row.get("metrics", {}),
        "clients": (row.get("evaluation_clients") or {}).get("metrics", {}),
        "training": row.get("client_metrics", {}),
    }
