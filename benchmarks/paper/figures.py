"""Draws the three figures: the paper's numbers and ours beside each other. The same rows give the same bytes."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.paper import cells, summary, theirs
from benchmarks.paper.cells import CLIENTS, EPOCHS, NETWORKS, OPTIMIZERS, Cell
from benchmarks.paper.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = dict(zip(OPTIMIZERS, ("C1", "C0", "C2"), strict=True))
OF_EPOCHS: Final = dict(zip(EPOCHS, ("C0", "C1"), strict=True))

PHASES: Final = ("invocation_s", "clients_start_s", "training_s", "aggregation_s")

WIDTH: Final = 0.1
"""Of a bar; a group of nine belongs to one number of clients."""


def save(draw: "Callable[[Figure], None]", path: Path, size: tuple[float, float]) -> Path:
    """Draw a figure into a file, and return its path.

    Args:
        draw: draws into a figure.
        path: the file, an SVG.
        size: width and height in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        # Not a person's own settings.
        mpl.rcdefaults()
        # Ids in the file are made of this instead of random numbers, and text is text.
        mpl.rcParams["svg.hashsalt"] = "fedkeeper"
        mpl.rcParams["svg.fonttype"] = "none"
        mpl.rcParams["font.size"] = 9
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    text = path.read_text()
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    return path


def draw_rounds(figure: "Figure", summaries: Mapping[Cell, Summary]) -> None:
    """Draw Figure 3: rounds to the target. A cell that nobody ran has no bar of ours.

    Args:
        figure: an empty one.
        summaries: of all cells that were run.
    """
    panels = figure.subplots(2, 2)
    for axes, (network, epochs) in zip(panels.flat, itertools.product(NETWORKS, EPOCHS), strict=True):
        for group, clients in enumerate(CLIENTS):
            for number, optimizer in enumerate(OPTIMIZERS):
                cell = Cell(network, epochs, optimizer, clients, "reset", cells.FEDAVG, cells.target_of(network))
                left = group + (3 * number - 4) * WIDTH
                looks = _looks(COLOURS[optimizer])
                _bar(axes, left, theirs.rounds(cell), looks[0], "†" if theirs.trap(cell) else "")
                ours, other = summaries.get(cell), summary.best(summaries, cell)
                if ours:
                    _bar(axes, left + WIDTH, ours.rounds, looks[1], "" if any(ours.rounds) else ours.text)
                if other:
                    _bar(axes, left + 2 * WIDTH, other.rounds, looks[2], other.cell.strategy)
        percent = 100 * theirs.numbers()["targets"][network]
        axes.set(title=f"{network}, {epochs} local epochs: rounds to {percent:.0f} %", xlabel="clients per round")
        axes.set_xticks(range(len(CLIENTS)), [str(number) for number in CLIENTS])
        axes.margins(y=0.12)
    _legend_of_rounds(figure)


def _looks(colour: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return how the bars of the paper, of ours and of another strategy look."""
    return (
        {"color": colour, "alpha": 0.35},
        {"facecolor": colour, "edgecolor": "black", "linewidth": 0.6},
        {"facecolor": "white", "edgecolor": colour, "hatch": "////"},
    )


def _bar(axes: "Axes", left: float, rounds: Sequence[int | None], look: dict[str, Any], mark: str = "") -> None:
    """Draw a bar with its number of runs, from the smallest to the largest run where there are two or more.

    Where no run has reached the target, there are that number and the mark alone.
    """
    reached = [number for number in rounds if number is not None]
    missed = f" of {len(rounds)}" if len(reached) < len(rounds) else ""
    if reached:
        mean = sum(reached) / len(reached)
        axes.bar(left, mean, width=WIDTH, **look)
    if len(reached) > 1:
        axes.errorbar(
            left, mean, yerr=[[mean - min(reached)], [max(reached) - mean]], color="black", linewidth=0.7, capsize=1.5
        )
    axes.annotate(
        f"{len(reached)}{missed} {mark}".strip(),
        (left, max(reached, default=0)),
        (0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=5,
        rotation=90 if missed or len(mark) > 1 else 0,
    )


def _legend_of_rounds(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=optimizer) for optimizer, colour in COLOURS.items()]
    names = ("paper", "ours", "ours, best other strategy")
    handles += [Patch(label=name, **look) for name, look in zip(names, _looks("grey"), strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(
        "Rounds to the target: mean, smallest to largest run, number of runs († the paper's list is a copy)"
    )


def draw_curves(figure: "Figure", found: Sequence[Mapping[str, Any]]) -> None:
    """Draw Figure 4: accuracy and seconds of each round, with 100 clients and Adam.

    Args:
        figure: an empty one.
        found: the rows.
    """
    panels = figure.subplots(2, 2)
    for column, network in enumerate(NETWORKS):
        accuracy, seconds = panels[0][column], panels[1][column]
        for epochs in EPOCHS:
            curve, colour = theirs.curve(network, epochs), OF_EPOCHS[epochs]
            of_paper = {"color": colour, "linestyle": ":", "label": f"paper, {epochs} local epochs"}
            _line(accuracy, curve["accuracy"], **of_paper)
            _line(seconds, curve["round_s"], **of_paper)
            for row in rows_of_curve(found, network, epochs):
                ours = {"color": colour, "label": f"ours, {epochs} local epochs, seed {row['seed']}"}
                _line(accuracy, row["accuracy"], **ours)
                _line(seconds, row["round_s"], **ours)
        accuracy.axhline(0.95, color="red", linewidth=0.6)
        accuracy.set(title=f"{network}: test accuracy", xlabel="round", ylim=(0.4, 1.0))
        accuracy.legend(loc="lower right", fontsize="small")
        seconds.set(title=f"{network}: seconds per round", xlabel="round")
        seconds.set_ylim(bottom=0)
    devices = sorted({row["device"] for row in found if _is_of_curves(row)})
    on = f"ours on one core or card of: {', '.join(devices)}" if devices else "ours were not run yet"
    figure.suptitle(f"100 clients per round, Adam. The paper's time is that of its 100 functions; {on}")


def rows_of_curve(found: Sequence[Mapping[str, Any]], network: str, epochs: int) -> list[Mapping[str, Any]]:
    """Return the rows that a curve of Figure 4 shows, by seed.

    Args:
        found: the rows.
        network: `nn` or `cnn`.
        epochs: local epochs.
    """
    like = [row for row in found if _is_of_curves(row) and (row["network"], row["epochs"]) == (network, epochs)]
    return sorted(like, key=lambda row: int(row["seed"]))


def _is_of_curves(row: Mapping[str, Any]) -> bool:
    cell = cells.cell_of(row)
    return cell == cell.of_paper and (cell.optimizer, cell.clients) == ("adam", 100)


def _line(axes: "Axes", values: Sequence[float | None], **look: Any) -> None:
    """Draw what was measured by round; a round without a value leaves a gap."""
    if values:
        measured = [float("nan") if value is None else value for value in values]
        axes.plot(range(1, len(measured) + 1), measured, linewidth=1.0, **look)


def draw_split(figure: "Figure", fabric: Mapping[str, Any] | None) -> None:
    """Draw Figure 5: where the time of a round goes, with 100 clients on three platforms.

    Args:
        figure: an empty one.
        fabric: the last row of the emulated platforms; None: there is none.
    """
    axes = figure.subplots()
    bars = _bars_of_paper()
    for number, each in enumerate((fabric or {}).get("rounds", [])):
        name = f"ours, {fabric['network'] if fabric else ''},\nround {number + 1}"
        bars.append((name, {phase: each[phase] for phase in PHASES}, {}))
    labels = {"invocation_s": "invocation", "clients_start_s": "clients' start", "training_s": "training"}
    labels |= {"aggregation_s": "aggregation", "invokers_start_s": "invokers' start: a constant in the paper's program"}
    labels |= {"aggregator_start_s": "aggregator's start: a constant in the paper's program"}
    looks: dict[str, dict[str, Any]] = {phase: {"color": f"C{number}"} for number, phase in enumerate(PHASES)}
    looks |= {
        name: {"facecolor": "white", "edgecolor": "red", "hatch": "////"} for name in labels if name not in PHASES
    }
    seen: set[str] = set()
    for place, (_, phases, errors) in enumerate(bars):
        bottom = 0.0
        for phase, seconds in phases.items():
            label = None if phase in seen else labels[phase]
            axes.bar(place, seconds, bottom=bottom, yerr=errors.get(phase), width=0.6, label=label, **looks[phase])
            seen.add(phase)
            bottom += seconds
        own = phases["invocation_s"] + phases["aggregation_s"] + phases.get("aggregator_start_s", 0.0)
        axes.annotate(f"{own:.2f} s", (place, bottom), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(range(len(bars)), [name for name, *_ in bars])
    axes.set(ylabel="seconds", title="A round with 100 clients; above each bar: invocation and aggregation alone")
    axes.margins(y=0.1)
    figure.legend(loc="outside lower center", fontsize="small", ncols=3)


def _bars_of_paper() -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """Return the paper's bars, each with its phases and their standard deviations, in seconds."""
    split, found = theirs.numbers()["split"], []
    for network in reversed(NETWORKS):
        for when in ("cold", "warm"):
            each = split[when][network]
            phases = {"invocation_s": each["invocation_s"]}
            fixed = split["hard_coded"] if when == "cold" else {}
            if fixed:
                phases["invokers_start_s"] = fixed["invokers_start_s"]
            less = fixed["invokers_start_s"][0] if fixed else 0
            phases["training_s"] = [each["training_s"][0] - less, each["training_s"][1]]
            if fixed:
                phases["aggregator_start_s"] = fixed["aggregator_start_s"]
            less = fixed["aggregator_start_s"][0] if fixed else 0
            phases["aggregation_s"] = [each["aggregation_s"][0] - less, each["aggregation_s"][1]]
            means = {name: value[0] for name, value in phases.items()}
            found.append((f"paper, {network},\n{when}", means, {name: value[1] for name, value in phases.items()}))
    return found
