"""Options that several commands share, and how a command finds its broker."""

from pathlib import Path
from typing import Annotated, Final

import typer

from fedkeeper.errors import BadOption

FOLDER: Final = Path(".fedkeeper")
URL_FILE: Final = "url"

JobFile = Annotated[str, typer.Argument(help="A job file, or the name of one that comes with FedKeeper.")]
JobId = Annotated[str, typer.Argument(help="A job's id.")]
Url = Annotated[
    str, typer.Option(envvar="FEDKEEPER_URL", help="The broker. Default: that of `fedkeeper up` in this folder.")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a job's field.")]
Out = Annotated[Path, typer.Option(help="Where a job's model, metrics and plot go: OUT/<job>/.")]
Folder = Annotated[Path, typer.Option("--dir", help="Broker's store, credentials and the clients' shards.")]
Workers = Annotated[int, typer.Option(min=0, help="Number of worker processes; 0: one per core.")]
DataDir = Annotated[Path | None, typer.Option("--data", envvar="FEDKEEPER_DATA", help="Folder of the datasets' files.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log everything.")]


def broker_url(option: str) -> str:
    """Return the broker's address: the option's value, or the address of `fedkeeper up` in this folder.

    Raises:
        BadOption: the option is empty and `fedkeeper up` does not run in this folder.
    """
    if option:
        return option
    file = FOLDER / URL_FILE
    if file.is_file():
        return file.read_text().strip()
    raise BadOption("which broker? give --url or FEDKEEPER_URL, or start `fedkeeper up` in this folder")
