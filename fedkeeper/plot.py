"""Plots finished jobs: the accuracy by round, and the time of each phase of a round."""

from pathlib import Path
from typing import Any, Final

import msgspec

from fedkeeper.errors import BadOption, Missing

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
    """Plot the accuracy of every job and the phases of the first one; return the picture's path.

    Args:
        folders: the jobs' folders, such as `runs/<job>/`.
        path: the picture; its suffix selects the format.

    Raises:
        Missing: matplotlib is not installed, or a folder has no metrics.
        BadOption: the picture can't be written, or matplotlib does not know its format.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as exc:
        raise Missing(f"{exc.name} is missing: install fedkeeper[plot]") from exc
    jobs = [(folder.resolve().name, read_metrics(folder)) for folder in folders]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, rows in jobs:
        evaluated = [row for row in rows if row["accuracy"] is not None]
        left.plot([row["round"] for row in evaluated], [row["accuracy"] for row in evaluated], label=name, marker=".")
    left.legend(loc="lower right")
    left.set(title="Test accuracy", xlabel="round", ylim=(0, 1))
    left.grid(alpha=0.3)
    _plot_phases(right, jobs[0][1])
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as exc:
        raise BadOption(f"can't write the plot to {path}: {exc}") from exc
    return path


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
