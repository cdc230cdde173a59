"""Draws what a round without training costs: against the number of clients, and of parameters."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.bars.bar import Row

CLIENTS: Final = ("noop-", "clients-")
PARAMETERS: Final = ("parameters-",)

Points = dict[int, float]


def points(rows: Iterable[Row], prefixes: Sequence[str], by: str, column: str) -> dict[str, Points]:
    """Return the newest seconds of each round's shape.

    Args:
        rows: rows of bars, oldest first.
        prefixes: what the bars' names begin with.
        by: the rows' column for the horizontal axis: `clients` or `parameters`.
        column: that for the vertical axis: `measured` or `peer`.

    Returns:
        Seconds by that number, for each number of the other one.
    """
    other = "parameters" if by == "clients" else "clients"
    series: dict[str, Points] = {}
    for row in rows:
        is_plain = row["bar"].removeprefix("noop-").isdigit() or not row["bar"].startswith("noop-")
        if row.get("small") or not is_plain or by not in row or row.get(column) is None:
            continue
        if row["bar"].startswith(tuple(prefixes)):
            series.setdefault(f"{row[other]:,} {other}", {})[row[by]] = row[column]
    return series


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw both curves into a picture.

    Args:
        rows: rows of bars, oldest first.
        path: the picture; its ending names the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, rows, CLIENTS, "clients")
    _draw(right, rows, PARAMETERS, "parameters")
    figure.savefig(path)


def _draw(axes: Any, rows: Sequence[Row], prefixes: Sequence[str], by: str) -> None:
    for column, name, style in (("measured", "FedKeeper", "o-"), ("peer", "Flower's simulation", "x--")):
        for title, found in points(rows, prefixes, by, column).items():
            numbers = sorted(found)
            axes.plot(numbers, [found[number] for number in numbers], style, label=f"{name}, {title}")
    axes.set(xscale="log", yscale="log", xlabel=by, ylabel="seconds per round without training")
    axes.grid(visible=True, which="major", alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")
