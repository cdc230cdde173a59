"""Plots runs: what was measured by round, and where the time of a round went."""

import io
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker.messages.job import Job
from broker.support import installing, texts
from fedkeeper import files
from fedkeeper.display import field_values
from fedkeeper.errors import BadOption, Missing, NotSaved
from fedkeeper.runs import comparison, stored
from fedkeeper.runs import metric as metrics
from fedkeeper.runs.comparison import Group
from fedkeeper.runs.metric import Metric
from fedkeeper.runs.stored import StoredRun
from server import findings

if TYPE_CHECKING:
    from fedkeeper.runs.picture import Picture

PHASES: Final = ("invocation_s", "clients_start_s", "training_s", "aggregation_s", "evaluation_s")
"""The phases of a round in the paper's Figure 5, as columns of metrics.jsonl."""

LEGEND_ROOM: Final = 0.3
"""Free room beside the bars, as a share of the longest."""

MAX_NAME: Final = 80
"""Longest name of a picture. Characters."""

COLOURS: Final = 10
"""So many curves have colours of their own in matplotlib's cycle; more take theirs from a map."""


def plot(folders: Iterable[Path], path: Path, *, metric: str = "") -> Path:
    """Plot runs, and return the picture's path.

    It shows a metric and the loss by round, a curve for each combination of the fields in which the jobs differ: the
    mean of its seeds, and a band of one standard deviation. Beside them is the time: that of each round of one run, or
    the mean round of each combination.

    Args:
        folders: the runs' folders.
        path: the picture; its suffix selects the format.
        metric: the metric; empty: that which decides in the first job, or was measured.

    Raises:
        Missing: matplotlib is not installed, or a folder has no metrics.
        BadOption: the picture can't be written, matplotlib does not know its format, or the metric was not measured.
    """
    return draw([stored.read(folder) for folder in folders], path, metric=metric)


def default_name(rows: list[dict[str, Any]], job: Job | None = None, metric: str = "") -> str:
    """Return the name of the picture of some runs, such as `accuracy.png`.

    Args:
        rows: the rows of their metrics.jsonl.
        job: the first one's job; None: not known.
        metric: as for `plot`.

    Raises:
        BadOption: the metric was not measured.
    """
    return file_name(metrics.choose(job, rows, metric).name)


def file_name(metric: str) -> str:
    """Return the name of a metric's picture. Whatever strangers have called the metric, it is a visible plain file."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', metric).lstrip('.-')[:MAX_NAME] or 'metric'}.png"


def draw(runs: Sequence[StoredRun], path: Path, *, metric: str = "") -> Path:
    """Plot runs that were read, as `plot` does.

    Args:
        runs: the runs, at least one.
        path: the picture.
        metric: the metric.

    Raises:
        Missing: matplotlib is not installed.
        BadOption: as for `plot`.
    """
    picture, content = figure(runs, metric=metric), io.BytesIO()
    try:
        picture.savefig(content, dpi=120, format=path.suffix.removeprefix(".") or None)
        files.write(path, content.getvalue())
    except (OSError, ValueError, NotSaved) as exc:
        raise BadOption(f"can't write the plot to {path}: {exc}") from exc
    return path


def figure(runs: Sequence[StoredRun], *, metric: str = "") -> "Picture":
    """Return the picture that `draw` saves.

    Args:
        runs: the runs, at least one.
        metric: the metric.

    Raises:
        Missing: matplotlib is not installed.
        BadOption: the metric was not measured.
    """
    try:
        from fedkeeper.runs.picture import Picture
    except ModuleNotFoundError as exc:
        raise Missing(f"{exc.name} is missing: {installing.remedy('plot')}") from exc
    rows = [row for run in runs for row in run.rows]
    chosen = metrics.choose(runs[0].job, rows, metric)
    shown = [each for each in dict.fromkeys((chosen, chosen.beside())) if each == chosen or each.points(rows)]
    found = _named_groups(runs)
    picture = Picture(figsize=(5 * len(shown) + 5, 4), layout="constrained")
    *panels, times = picture.subplots(1, len(shown) + 1)
    for axes, each in zip(panels, shown, strict=True):
        _plot_curves(axes, each, found)
    for target in sorted(_targets(runs, chosen)):
        panels[0].axhline(target, color="black", linestyle="--", linewidth=1, label=f"target {target:g}")
    panels[0].legend(loc="best", fontsize="small")
    if len(runs) == 1:
        _plot_rounds(times, runs[0].rows)
    else:
        _plot_mean_rounds(times, found)
    times.legend(loc="best", fontsize="small")
    return picture


def _named_groups(runs: Sequence[StoredRun]) -> list[tuple[str, Group]]:
    """Return the runs by combination with its name: the fields in which the jobs differ, or else the runs' names."""
    fields = comparison.differing_fields(runs)
    found = comparison.groups(runs, fields)
    labels = [field_values.label(group.values) for group in found]
    named = []
    for label, group in zip(labels, found, strict=True):
        is_unique = label and labels.count(label) == 1
        name = label if is_unique else group.runs[0].name if len(group.runs) == 1 else f"{len(group.runs)} seeds"
        named.append((_plain(name), group))
    return named


def _plain(text: str) -> str:
    """Return a text as matplotlib shows it as it is: between dollars it would read a formula."""
    return texts.cleaned(text, keep="").replace("$", r"\$")


def _plot_curves(axes: Any, metric: Metric, named: Sequence[tuple[str, Group]]) -> None:
    if len(named) > COLOURS:
        from matplotlib import colormaps

        colours = colormaps["viridis"].resampled(len(named))
        axes.set_prop_cycle(color=[colours(number) for number in range(len(named))])
    for name, group in named:
        points = comparison.curve(group.runs, metric)
        rounds, means = [point.round for point in points], [point.mean for point in points]
        (line,) = axes.plot(rounds, means, label=name, marker=".")
        if any(point.sd for point in points):
            low, high = ([point.mean + sign * point.sd for point in points] for sign in (-1, 1))
            axes.fill_between(rounds, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    spreads = any(len(group.runs) > 1 for _, group in named)
    title = _plain(metric.title)
    axes.set(title=f"{title} (mean ± standard deviation)" if spreads else title, xlabel="round")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _targets(runs: Iterable[StoredRun], metric: Metric) -> set[float]:
    """Return the values of the metric that end the jobs early."""
    found = set()
    for job in (run.job for run in runs if run.job is not None):
        if job.stop.target is not None and findings.watched_metric(job) == metric.name:
            found.add(job.stop.target)
        if job.stop.target_accuracy is not None and metric.name == "accuracy":
            found.add(job.stop.target_accuracy)
    return found


def _plot_rounds(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Plot one stacked bar for each round."""
    rounds, bottoms = [row["round"] for row in rows], [0.0] * len(rows)
    for phase in PHASES:
        heights = [row[phase] or 0.0 for row in rows]
        axes.bar(rounds, heights, bottom=bottoms, width=1.0, label=_phase_name(phase))
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.margins(y=LEGEND_ROOM)
    axes.set(title="Time per round", xlabel="round", ylabel="seconds")


def _plot_mean_rounds(axes: Any, named: Sequence[tuple[str, Group]]) -> None:
    """Plot one stacked bar for each combination: the mean of all its rounds. The first one is on top."""
    places = range(len(named))
    lefts = [0.0] * len(named)
    rows = [[row for run in group.runs for row in run.rows] for _, group in named]
    for phase in PHASES:
        widths = [statistics.fmean([row[phase] or 0.0 for row in part] or [0.0]) for part in rows]
        axes.barh(places, widths, left=lefts, label=_phase_name(phase))
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.set_yticks(places, [name.replace(", ", "\n") for name, _ in named], fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=LEGEND_ROOM)
    axes.set(title="Mean time of a round", xlabel="seconds")


def _phase_name(phase: str) -> str:
    return phase.removesuffix("_s").replace("_", " ")
