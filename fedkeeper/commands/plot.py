"""The command `fedkeeper plot`: plots runs."""

from pathlib import Path
from typing import Annotated

import typer

from fedkeeper.commands.compare import Metric
from fedkeeper.display import screen
from fedkeeper.options import Json
from fedkeeper.results import Picture
from fedkeeper.runs import plot as pictures
from fedkeeper.sweeps import folder as sweep_folder


def plot(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs and sweeps: runs/latest.")],
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture: .png, .svg or .pdf. Default: <metric>.png.")
    ] = None,
    metric: Metric = "",
    as_json: Json = False,
) -> None:
    """Plot a metric, the loss and the times of runs, and print the picture's path."""
    runs = sweep_folder.read_all(folders)
    path = to or Path(pictures.default_name([row for run in runs for row in run.rows], runs[0].job, metric))
    pictures.draw(runs, path, metric=metric)
    if as_json:
        screen.print_json(Picture(plot=str(path), runs=tuple(str(run.folder) for run in runs)))
    else:
        screen.echo(str(path))
