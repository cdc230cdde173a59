"""The command `fedkeeper plot`: plots finished jobs."""

from pathlib import Path
from typing import Annotated

import typer

from fedkeeper.runs import plot as pictures


def plot(
    folders: Annotated[list[Path], typer.Argument(help="Folders of jobs, such as runs/quickstart-1a2b3c.")],
    to: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = Path("accuracy.png"),
) -> None:
    """Plot the accuracy and the phases of finished jobs."""
    typer.echo(pictures.plot(folders, to))
