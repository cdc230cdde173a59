"""Plots of finished jobs: accuracy by round, and where each round's time went."""

from pathlib import Path
from typing import Any, Final

import msgspec

from fedkeeper.errors import BadOption, Missing

PARTS: Final = ("invocation_s", "clients_start_s", "training_s", "aggregation_s", "evaluation_s")
"""The paper's Figure 5."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rounds in a job's folder.

    Raises:
        Missing: there are none, or they can't be read.
    """
    file = folder / "metrics.jsonl"
    if not file.is_file():
        raise Missing(f"{file} is missing: give the folder of a job, such as runs/quickstart-1a2b3c")
    try:
        return [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    except msgspec.DecodeError as exc:
        raise Missing(f"{file} is damaged: {exc}") from exc


def plot(folders: list[Path], to: Path) -> Path:
    """Draw the jobs' accuracy by round, and the time split of the first; returns `to`.

    Raises:
        Missing: matplotlib is not installed, or a folder has no metrics.
        BadOption: `to` can't be written, or is no image that matplotlib knows.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as exc:
        raise Missing(f"{exc.name} is missing: install fedkeeper[plot]") from exc
    jobs = [(folder.resolve().name, read_metrics(folder)) for folder in folders]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, rounds in jobs:
        _draw_accuracy(left, name, rounds)
    left.legend(loc="lower right")
    left.set(title="Test accuracy", xlabel="round", ylim=(0, 1))
    left.grid(alpha=0.3)
    _draw_times(right, jobs[0][1])
    try:
        figure.savefig(to, dpi=120)
    except (OSError, ValueError) as exc:
        raise BadOption(f"can't write the plot to {to}: {exc}") from exc
    return to


def _draw_accuracy(axes: Any, name: str, rounds: list[dict[str, Any]]) -> None:
    judged = [(row["round"], row["accuracy"]) for row in rounds if row["accuracy"] is not None]
    axes.plot([round_ for round_, _ in judged], [accuracy for _, accuracy in judged], label=name, marker=".")


def _draw_times(axes: Any, rounds: list[dict[str, Any]]) -> None:
    numbers = [row["round"] for row in rounds]
    below = [0.0] * len(rounds)
    for part in PARTS:
        heights = [row[part] or 0.0 for row in rounds]
        axes.bar(numbers, heights, bottom=below, width=1.0, label=part.removesuffix("_s").replace("_", " "))
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.legend(loc="upper right", fontsize="small")
    axes.set(title="Time per round", xlabel="round", ylabel="seconds")
