"""The paper's Figures 3, 4 and 5, run again.

    python -m benchmarks.paper run [--minutes 60] [--resume] [--network nn] [--clients 10 30] ...
    python -m benchmarks.paper status
    python -m benchmarks.paper draw

`run` makes the most telling run that is missing and fits into the time, then the next, and appends each one's row to
`benchmarks/paper/runs.jsonl`. Without `--minutes` it makes one. Ctrl-C stops it, and so does the end of the time after
the round; `run --resume` goes on. MNIST comes from FEDKEEPER_DATA, or is downloaded.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.paper import cells, cost, runs, summary, theirs
from benchmarks.paper.cells import Cell
from benchmarks.paper.runs import Begun, RunFailed

DOCS: Final = cells.ROOT / "docs"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says.

    Args:
        arguments: its words; None: those of this process.
    """
    options = _parser().parse_args(arguments)
    match options.command:
        case "run":
            _run(options)
        case "status":
            print(status(options.rows))
        case "draw":
            from benchmarks.paper import page

            for path in page.write(cells.read(options.rows), options.to):
                print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rows", type=Path, default=cells.FILE, help="the file of rows")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", parents=[common], help="make runs that are missing")
    run.add_argument("--minutes", type=float, help="stop after the round in which this time is over")
    run.add_argument("--resume", action="store_true", help="go on with the runs that were stopped")
    run.add_argument("--device", default="", help="what to train on, as torch names it: cuda")
    run.add_argument("--network", nargs="+", choices=cells.NETWORKS)
    run.add_argument("--epochs", nargs="+", type=int, choices=cells.EPOCHS)
    run.add_argument("--optimizer", nargs="+", choices=cells.OPTIMIZERS)
    run.add_argument("--clients", nargs="+", type=int, choices=cells.CLIENTS)
    run.add_argument("--seed", nargs="+", type=int, choices=cells.SEEDS)
    run.add_argument("--state", choices=cells.STATES, help="of the optimizers, between rounds")
    run.add_argument("--strategy", choices=[cells.FEDAVG, *cells.strategies()])
    run.add_argument("--to", type=float, help="end at this accuracy instead of the paper's: such runs are no bars")
    run.add_argument("--decided", action="store_true", help="end a run after the most rounds that are within theirs")
    commands.add_parser("status", parents=[common], help="show the grid: runs, mean, theirs")
    draw = commands.add_parser("draw", parents=[common], help="draw the figures and write docs/paper.md")
    draw.add_argument("--to", type=Path, default=DOCS, help="the folder")
    return parser


def status(path: Path, folder: Path = runs.FOLDER) -> str:
    """Return the grid as text, and what was begun.

    Args:
        path: the file of rows.
        folder: with the runs that were begun.
    """
    summaries = summary.of(cells.read(path))
    done = sum(cell in summaries for cell in cells.grid())
    text = [
        summary.screen(summaries),
        f"{done} of {len(cells.grid())} cells were run. Rounds to the target: mean; † their list is a copy.",
        *(f"stopped: {begun.folder.name}" for begun in runs.unfinished(folder)),
        *(f"can't go on, its job has changed: {begun.folder.name}" for begun in runs.stale(folder)),
    ]
    return "\n".join(text)


def _run(options: argparse.Namespace) -> None:
    until_s = None if options.minutes is None else time.time() + 60 * options.minutes
    args = {"until_s": until_s, "device": options.device}
    try:
        for begun in _stopped(options) if options.resume else []:
            if not _go_on(begun, options.rows, **args):
                return
        if options.resume and options.minutes is None:
            return
        while (chosen := _next(options, until_s)) and _go_on(chosen, options.rows, **args) and options.minutes:
            pass
    except RunFailed as exc:
        # The same run would be chosen again, and fail again.
        raise SystemExit(str(exc)) from exc
    except KeyboardInterrupt:
        print("\nstopped: `python -m benchmarks.paper run --resume` goes on")


def _go_on(begun: Begun, path: Path, *, until_s: float | None, device: str) -> bool:
    """Go on with a run, and return whether it has ended."""
    has_ended = runs.make(begun, path, until_s=until_s, device=device)
    then = "its row is there" if has_ended else "stopped: `python -m benchmarks.paper run --resume` goes on"
    print(f"{begun.folder.name}: {then}", flush=True)
    return has_ended


def _next(options: argparse.Namespace, until_s: float | None) -> Begun | None:
    """Begin the most telling run that fits into the time; None: there is none."""
    found, device = cells.read(options.rows), runs.device_name(options.device)
    begun = {(cells.cell_of(each.planned.names), each.planned.names["seed"]) for each in runs.unfinished()}
    missing = [each for each in cells.most_telling_first(_wanted(options), found) if each not in begun]
    missing = [each for each in missing if _is_wanted(*each, options)]
    if not missing:
        print("no run is missing")
        return None
    left_s = float("inf") if until_s is None else until_s - time.time()
    prices = {each: cost.estimate_s(each[0], found, device) for each in missing}
    chosen = next((each for each in missing if prices[each] <= left_s), None)
    if chosen is None and begun:
        print(f"no missing run fits into {left_s / 60:.0f} minutes: `run --resume` goes on with what was stopped")
        return None
    # What fits into no time is begun too, if nothing else was: it goes on next time.
    chosen = chosen or min(missing, key=lambda each: prices[each])
    print(f"{chosen[0].name}, seed {chosen[1]}: about {prices[chosen] / 60:.0f} minutes", flush=True)
    most_rounds = theirs.most_within(chosen[0]) if options.decided else None
    return runs.begin(cells.planned(*chosen), most_rounds=most_rounds)


def _stopped(options: argparse.Namespace) -> list[Begun]:
    """Return the runs that were stopped and that the options ask for."""
    found = [(cells.cell_of(begun.planned.names), begun) for begun in runs.unfinished()]
    return [begun for cell, begun in found if _is_wanted(cell, begun.planned.names["seed"], options)]


def _is_wanted(cell: Cell, seed: int, options: argparse.Namespace) -> bool:
    lists = {"network": cell.network, "epochs": cell.epochs, "optimizer": cell.optimizer, "clients": cell.clients}
    ones = {"state": cell.state, "strategy": cell.strategy, "to": cell.target}
    return (
        all(getattr(options, name) is None or value in getattr(options, name) for name, value in lists.items())
        and all(getattr(options, name) in (None, value) for name, value in ones.items())
        and (options.seed is None or seed in options.seed)
    )


def _wanted(options: argparse.Namespace) -> list[Cell]:
    if options.to or options.state or options.strategy:
        found = cells.grid(options.state or cells.STATES[0], options.strategy or cells.FEDAVG, options.to)
    else:
        found = cells.all_cells()
    return found


if __name__ == "__main__":
    main()
