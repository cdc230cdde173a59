"""Plots finished jobs: what was measured by round, and the time of each phase of a round."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from fedkeeper.errors import BadOption, Missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHASES: Final = ("invocation_s", "clients_start_s", "training_s", "aggregation_s", "evaluation_s")
"""The phases of a round in the paper's Figure 5, as columns of metrics.jsonl."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the rounds of a job from its folder.

    Raises:
        Missing: the folder has no metrics.jsonl, or the file is damaged.
    """
    file = folder / "metrics.jsonl"
    if not file.is_file():
        raise Missing(f"{file} is missing: give the folder of a job, such as runs/quickstart-1a2b3c")
    try:
        return [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    except msgspec.DecodeError as exc:
        raise Missing(f"{file} is damaged: {exc}") from exc


def plot(folders: list[Path], path: Path) -> Path:
    """Plot a metric of every job and the phases of the first one; return the picture's path.

    The metric is that of the first job: the one that it looks at, else the training loss.

    Args:
        folders: the jobs' folders, such as `runs/<job>/`.
        path: the picture; its suffix selects the format.

    Raises:
        Missing: matplotlib is not installed, or a folder has no metrics.
        BadOption: the picture can't be written, or matplotlib does not know its format.
    """
    figure = draw(folders)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as exc:
        raise BadOption(f"can't write the plot to {path}: {exc}") from exc
    return path


def draw(folders: list[Path]) -> "Figure":
    """Return the picture that `plot` saves.

    Args:
        folders: the jobs' folders.

    Raises:
        Missing: matplotlib is not installed, or a folder has no metrics.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as exc:
        raise Missing(f"{exc.name} is missing: install fedkeeper[plot]") from exc
    jobs = [(folder.resolve().name, read_metrics(folder)) for folder in folders]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    metric = _metric(jobs[0][1])
    for name, rows in jobs:
        points = [(row["round"], value) for row in rows if (value := metric.value(row)) is not None]
        left.plot([round_ for round_, _ in points], [value for _, value in points], label=name, marker=".")
    left.legend(loc="best")
    left.set(title=metric.title, xlabel="round", **({"ylim": (0, 1)} if metric.name == "accuracy" else {}))
    left.grid(alpha=0.3)
    _plot_phases(right, jobs[0][1])
    return figure


def default_name(rows: list[dict[str, Any]]) -> str:
    """Return the name of the picture of a job's rounds, such as `accuracy.png`."""
    return f"{_metric(rows).name}.png"


class _Metric(NamedTuple):
    """What is plotted: a metric, and the part of a row that has it."""

    name: str
    part: Literal["server", "clients", "training"]

    @property
    def title(self) -> str:
        whose = {"server": "Test", "clients": "Held-out", "training": "Training"}[self.part]
        return f"{whose} {self.name}"

    def value(self, row: dict[str, Any]) -> float | None:
        """Return the metric's value in a round; None: it was not measured."""
        value: float | None = _parts(row)[self.part].get(self.name)
        return value


def _parts(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return what was measured in a round. Version 0.1 wrote only `accuracy` and `loss` of the server's evaluation."""
    pair = {name: row[name] for name in ("accuracy", "loss") if row.get(name) is not None}
    return {
        "server": pair | row.get("metrics", {}),
        "clients": (row.get("evaluation_clients") or {}).get("metrics", {}),
        "training": row.get("client_metrics", {}),
    }


def _metric(rows: list[dict[str, Any]]) -> _Metric:
    """Return the metric to plot: the accuracy if there is one, else the first one that was measured."""
    for part in ("server", "clients", "training"):
        found = list(dict.fromkeys(name for row in rows for name in _parts(row)[part]))
        if part == "training":
            found = [name for name in found if name == "loss"] or found
        ranked = sorted(found, key=lambda name: (name != "accuracy", name == "loss"))
        if ranked:
            return _Metric(ranked[0], part)
    return _Metric("accuracy", "server")


def _plot_phases(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Plot one stacked bar per round."""
    rounds = [row["round"] for row in rows]
    bottoms = [0.0] * len(rows)
    for phase in PHASES:
        heights = [row[phase] or 0.0 for row in rows]
        axes.bar(rounds, heights, bottom=bottoms, width=1.0, label=phase.removesuffix("_s").replace("_", " "))
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.legend(loc="upper right", fontsize="small")
    axes.set(title="Time per round", xlabel="round", ylabel="seconds")
