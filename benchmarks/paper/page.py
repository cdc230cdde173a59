"""Writes docs/paper.md and its figures. Each number on the page comes from a row, or from the paper's own numbers."""

import itertools
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import rows
from benchmarks.paper import cells, figures, summary, theirs
from benchmarks.paper.cells import CLIENTS, EPOCHS, NETWORKS, Cell
from benchmarks.paper.summary import Summary

TEMPLATE: Final = Path(__file__).parent / "page.md"
FABRIC: Final = Path(__file__).parent / "fabric.jsonl"

NOT_RUN: Final = "not run yet"

PEAK_ROUNDS: Final = 20
"""The rounds before a run's last one whose mean says what it has reached."""

TELLING_CELLS: Final = 3
"""With fewer cells, whose rounds look like the paper's may be chance: runs of one setting differ by 15 % and more."""


def write(found: Sequence[dict[str, Any]], folder: Path, fabric: Path = FABRIC) -> list[Path]:
    """Write the page and its figures, and return their paths.

    Args:
        found: the rows.
        folder: where to.
        fabric: the file with the rows of the emulated platforms.
    """
    summaries, last = summary.of(found), last_fabric(fabric)
    page = folder / "paper.md"
    page.write_text(text(found, last))
    return [
        page,
        figures.save(lambda figure: figures.draw_rounds(figure, summaries), folder / "paper-figure3.svg", (13, 9)),
        figures.save(lambda figure: figures.draw_curves(figure, found), folder / "paper-figure4.svg", (12, 8)),
        figures.save(lambda figure: figures.draw_split(figure, last), folder / "paper-figure5.svg", (9, 5)),
    ]


def last_fabric(path: Path = FABRIC) -> dict[str, Any] | None:
    """Return the last row of the emulated platforms; None: there is none.

    Args:
        path: the file.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(json.loads(lines[-1])) if lines else None


def text(found: Sequence[dict[str, Any]], fabric: dict[str, Any] | None) -> str:
    """Return the page.

    Args:
        found: the rows.
        fabric: the last row of the emulated platforms; None: there is none.
    """
    return string.Template(TEMPLATE.read_text()).substitute(values(found, fabric))


def values(found: Sequence[dict[str, Any]], fabric: dict[str, Any] | None) -> dict[str, str]:
    """Return what stands for each name in the template.

    Args:
        found: the rows.
        fabric: the last row of the emulated platforms; None: there is none.
    """
    return {**_of_paper(), **_of_rounds(found), **_of_curves(found), **_of_fabric(fabric)}


def _of_paper() -> dict[str, str]:
    numbers, grid = theirs.numbers(), cells.grid()
    fixed = numbers["split"]["hard_coded"]
    lists = sorted({len(theirs.rounds(cell)) for cell in grid})
    found = {
        "repository": numbers["source"]["repository"],
        "paper_runs": str(numbers["claims"]["runs"]),
        "lists": " or ".join(map(str, lists)),
        "spread": f"{100 * numbers['spread']:.0f} %",
        "cells": str(len(grid)),
        "seeds": str(len(cells.SEEDS)),
        "cohort_seed": str(cells.config("nn")["cohort"]["seed"]),
        "cohort_rounds": " and ".join(numbers["cohorts"]["rounds"]),
        "cohort_clients": str(numbers["cohorts"]["clients"]),
        "split_epochs": str(numbers["split"]["epochs"]),
        "twin": numbers["traps"]["twin"],
        "clients": str(cells.config("nn")["data"]["clients"]),
        "test_images": f"{numbers['test_images']:,}",
        "most": str(CLIENTS[-1]),
        "fewest_epochs": str(EPOCHS[0]),
        "invokers_start": f"{fixed['invokers_start_s'][0]} s",
        "aggregator_start": f"{fixed['aggregator_start_s'][0]} s",
        "claimed_adam": f"{numbers['claims']['speed_up_adam_over_sgd']}",
        "claimed_nadam": f"{numbers['claims']['speed_up_nadam_over_sgd']}",
        "traps": "\n".join(f"- {trap}" for trap in numbers["traps"].values()),
    }
    for network in NETWORKS:
        found[f"{network}_parameters"] = f"{numbers['parameters'][network]:,}"
        found[f"{network}_target"] = f"{100 * numbers['targets'][network]:.0f} %"
        found[f"{network}_test"] = f"{cells.target_of(network):.4f}"
        for optimizer in ("adam", "nadam"):
            sgd, other = (theirs.mean(_cell(network, name)) for name in ("sgd", optimizer))
            found[f"{network}_{optimizer}_gain"] = f"{sgd / other:.2f}"
    return found


def _cell(network: str, optimizer: str) -> Cell:
    return Cell(network, EPOCHS[0], optimizer, CLIENTS[-1], "reset", cells.FEDAVG, cells.target_of(network))


def _of_rounds(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    summaries = summary.of(found)
    run = [cell for cell in cells.grid() if cell in summaries]
    verdicts = [summaries[cell].verdict for cell in run]
    columns, lines = summary.table(summaries)
    return {
        "run_cells": str(len(run)),
        "made": _made(found),
        **{verdict: str(verdicts.count(verdict)) for verdict in (theirs.WITHIN, theirs.FEWER, theirs.MORE)},
        "rounds_table": rows.table(columns, lines) if lines else f"*{NOT_RUN}*",
        "beaten": _beaten(summaries),
        "states": _states(summaries),
        "peak_rounds": str(PEAK_ROUNDS),
        "peaks_table": _peaks(found),
    }


def _peaks(found: Sequence[dict[str, Any]]) -> str:
    """Return a table of each run's best round, and of what the rounds before its last one had."""
    lines = []
    for network, epochs in itertools.product(NETWORKS, EPOCHS):
        setting = (network, str(epochs), "adam", str(CLIENTS[-1]))
        lines.append([*setting, "the paper's", *_ends(theirs.curve(network, epochs)["accuracy"])])
    for cell, group in cells.by_cell(found).items():
        if cell.strategy == cells.FEDAVG and cell.target == cells.target_of(cell.network):
            state = ", state kept" if cell.state == "carry" else ""
            lines += [[*summary.names(cell), f"ours{state}", *_ends(row["accuracy"])] for row in group]
    columns = ("network", "epochs", "optimizer", "clients", "whose", "rounds", "best", "before")
    in_order = sorted(lines, key=lambda line: (NETWORKS.index(line[0]), int(line[1]), line[2], int(line[3]), line[4]))
    return rows.table(columns, in_order)


def _ends(accuracy: Sequence[float | None]) -> tuple[str, str, str]:
    """Return how many rounds a run has, its best accuracy, and the mean of the rounds before the last one."""
    known = [value for value in accuracy if value is not None]
    before = known[-1 - PEAK_ROUNDS : -1]
    return str(len(accuracy)), f"{max(known):.4f}", f"{sum(before) / len(before):.4f}" if before else ""


def _beaten(summaries: Mapping[Cell, Summary]) -> str:
    """Say in how many cells the best other strategy needs at most half of the rounds: of the paper's, and of ours."""
    (halved, others), (of_ours, both) = summary.halved(summaries), summary.halved_of_ours(summaries)
    if not others and not both:
        return "None was run yet."
    return (
        f"In {halved} of the {others} cells that have one, it needs at most half of the *paper's* FedAvg's rounds. "
        f"In {of_ours} of the {both} cells in which *our* FedAvg was run with the same seeds, it needs at most half of "
        "ours."
    )


def _states(summaries: Mapping[Cell, Summary]) -> str:
    """Say whose rounds look like the paper's: those of optimizers that keep their state, or of new ones."""
    kept, reset, both = summary.within_by_state(summaries)
    if not both:
        return "No cell has runs of both yet."
    found = f"the runs with the state kept are within in {kept}, those with a new optimizer in {reset}"
    if kept == reset:
        means = "."
    elif both < TELLING_CELLS:
        means = ": too few cells to tell which of them the paper has run."
    else:
        means = f": that speaks for its {'text' if kept > reset else 'published function'}."
    return f"Of the cells that have runs of both ({both}), {found}{means}"


def _made(found: Sequence[dict[str, Any]]) -> str:
    """Say how many runs there are, how long they took, and on what."""
    if not found:
        return "There are no runs yet."
    hours = sum(row["seconds"] for row in found) / 3600
    devices, torch = (", ".join(sorted({row[name] for row in found})) for name in ("device", "torch"))
    return f"Runs with their variants: {len(found)}, in {hours:.1f} hours on {devices}, torch {torch}."


def _of_curves(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    columns = ("network", "local epochs", "whose", "round with 95 %", "last round", "seconds per round", "on")
    lines = []
    for network in NETWORKS:
        for epochs in EPOCHS:
            curve, claims = theirs.curve(network, epochs), theirs.numbers()["claims"]
            accuracy = [0.0 if value is None else value for value in curve["accuracy"]]
            mean_s = f"{claims['round_s'][network][str(epochs)]}"
            paper = ("the paper's", _first(accuracy), str(len(accuracy)), mean_s, "functions on three platforms")
            lines.append((network, str(epochs), *paper))
            for row in figures.rows_of_curve(found, network, epochs):
                ours = (f"ours, seed {row['seed']}", _first(row["accuracy"]), str(len(row["accuracy"])), _mean_s(row))
                lines.append((network, str(epochs), *ours, row["device"]))
    return {"curves_table": rows.table(columns, lines)}


def _first(accuracy: Sequence[float]) -> str:
    number = rows.rounds_to(accuracy, 0.95)
    return "-" if number is None else str(number)


def _mean_s(row: Mapping[str, Any]) -> str:
    known = [seconds for seconds in row["round_s"] if seconds is not None]
    return f"{sum(known) / len(known):.2f}" if known else "-"


def _of_fabric(fabric: dict[str, Any] | None) -> dict[str, str]:
    columns = ("round", "invocation", "clients' start", "training", "aggregation", "invocation and aggregation")
    lines = []
    for network in NETWORKS:
        for when in ("cold", "warm"):
            each = theirs.numbers()["split"][when][network]
            invocation, training, aggregation = (
                each[phase][0] for phase in ("invocation_s", "training_s", "aggregation_s")
            )
            times = [f"{invocation:.2f}", "", f"{training:.2f}", f"{aggregation:.2f}"]
            lines.append([f"the paper's, {network}, {when}", *times, f"{invocation + aggregation:.2f}"])
    for number, each in enumerate((fabric or {}).get("rounds", []), start=1):
        own = each["invocation_s"] + each["aggregation_s"]
        of_phases = [f"{each[phase]:.2f}" for phase in figures.PHASES]
        lines.append([f"ours, {fabric['network'] if fabric else ''}, round {number}", *of_phases, f"{own:.2f}"])
    return {
        "split_table": rows.table(columns, lines),
        "fabric": _fabric_text(fabric),
        "our_epochs": f", ours {fabric['epochs']}" if fabric else "",
    }


def _fabric_text(fabric: dict[str, Any] | None) -> str:
    """Say on what the emulated platforms ran."""
    if fabric is None:
        return f"Ours: {NOT_RUN}."
    at_once = ", ".join(f"{number} of {name}" for name, number in fabric["instances"].items())
    cold = ", ".join(str(each["cold"]) for each in fabric["rounds"])
    return (
        f"Ours: {fabric['clients']} clients of the {fabric['network']} with {_epochs(fabric['epochs'])} on "
        f"{fabric['cores']} cores of {fabric['device']}, measured at commit {fabric['commit']}.\n"
        f"{sum(fabric['instances'].values())} instances lived at once ({at_once}): one for each client does not fit "
        f"into that machine.\nSo even the later rounds have cold starts (by round: {cold}), and a training takes as "
        "long as those cores need."
    )


def _epochs(number: int) -> str:
    return f"{number} local epoch{'' if number == 1 else 's'}"
