"""The command `fedkeeper fields`: lists what a job file may say."""

from typing import Annotated

import typer

from fedkeeper import job_fields
from fedkeeper.display import screen
from fedkeeper.options import Json


def fields(
    section: Annotated[
        str, typer.Argument(metavar="SECTION", help="A table of the job file, or one field: training.loss.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the fields of a job, each with its default, its type and its meaning."""
    for field in job_fields.fields(section):
        if as_json:
            screen.print_json(field)
        else:
            for line in job_fields.lines(field):
                screen.echo(line)
