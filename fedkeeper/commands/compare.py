"""The command `fedkeeper compare`: a table and a plot of several runs."""

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from fedkeeper.display import screen
from fedkeeper.options import Json
from fedkeeper.results import Comparison
from fedkeeper.runs import comparison, comparison_table
from fedkeeper.runs import plot as pictures
from fedkeeper.sweeps import folder as sweep_folder

Metric = Annotated[str, typer.Option(help="Compare by this metric. Default: that which decides in the job.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Also plot the runs: .png, .svg or .pdf.")]

LEGEND: Final = "{metric} of the last round, and the best: mean ± standard deviation, min..max"


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs and sweeps: runs/latest.")],
    metric: Metric = "",
    plot: Plot = None,
    each: Annotated[
        bool, typer.Option("--each", help="A line for each run, also where several seeds share one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare runs: the fields in which their jobs differ, and what they have reached, the best first."""
    found = sweep_folder.read_all(runs)
    compared = comparison.compare(found, metric=metric)
    if plot is not None:
        pictures.draw(found, plot, metric=metric)
        compared = msgspec.structs.replace(compared, plot=str(plot))
    if as_json:
        screen.print_json(compared)
    else:
        print_comparison(compared, each=each)


def print_comparison(compared: Comparison, *, each: bool = False) -> None:
    """Print the table of a comparison on standard output, and what it can't say on standard error.

    Args:
        compared: the comparison.
        each: one row for each run.
    """
    screen.print_list(*comparison_table.table(compared, each=each))
    if comparison_table.has_spread(compared, each=each):
        screen.say(LEGEND.format(metric=compared.metric), style="dim")
    for note in comparison_table.notes(compared):
        screen.say(note, style="yellow")
    if compared.plot:
        screen.say(f"plot written to {compared.plot}")
