"""Options that several commands share, and how a command finds its broker."""

import os
import re
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from broker import BrokerUrl
from fedkeeper import broker_note, completion
from fedkeeper.errors import BadOption
from server.retention import Retention

FOLDER: Final = broker_note.FOLDER
KEEP: Final = Retention()
KEEP_BYTES: Final = "10GB"
"""`KEEP.bytes`, as a person reads it."""

URL_VARIABLE: Final = "FEDKEEPER_URL"

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|d)")
_SECONDS: Final = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?(K|M|G|T|)B?")
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

JobFile = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        autocompletion=completion.job_files,
        help="A job file, TOML or JSON, or the name of one that comes with FedKeeper.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", autocompletion=completion.job_ids, help="A job's id.")]
Url = Annotated[
    str, typer.Option(envvar=URL_VARIABLE, help="The broker. Default: that of `fedkeeper up` in this folder.")
]
Replicas = Annotated[
    int,
    typer.Option(
        min=1,
        max=5,
        help="Nodes of a NATS cluster that keep each stream, as ?replicas= in the broker's URL; never lowered.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a job's field; `fedkeeper fields` lists them."),
]
Out = Annotated[Path, typer.Option(help="Where a job's model, metrics and plot go: OUT/<date>-<job>/.")]
Folder = Annotated[
    Path, typer.Option("--dir", help="Broker's store, credentials, copies of your code, and the clients' shards.")
]
Workers = Annotated[
    int, typer.Option(min=0, help="Number of worker processes; 0: one per core, or one that trains together on a GPU.")
]
Together = Annotated[
    str,
    typer.Option(
        envvar="FEDKEEPER_TOGETHER",
        metavar="N|auto",
        help="Train up to N clients of a round in one program; auto: as many as fit into memory. Default: 1 on a "
        "CPU, auto on a GPU.",
    ),
]
Code = Annotated[
    Path | None,
    typer.Option(
        "--code",
        envvar="FEDKEEPER_CODE",
        metavar="DIR|FILE",
        help="Your own code: a folder of modules and packages, or one module. Jobs may name its classes.",
    ),
]
PackedCode = Annotated[
    Path | None,
    typer.Option("--code", metavar="DIR|FILE", help="Your own code, for the archive of the functions."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="NAME",
        help="A library that jobs may name classes of, such as torchvision.models, or one class, as module:Name. "
        "Repeatable. Default: FEDKEEPER_ALLOW, separated by commas.",
    ),
]
Device = Annotated[
    str, typer.Option(envvar="FEDKEEPER_DEVICE", help="The torch device to train on: cpu, cuda, cuda:1. Default: cpu.")
]


class Reveal(StrEnum):
    """What others see of an error in user code."""

    CLASS = "class"
    TEXT = "text"


class Metrics(StrEnum):
    """What others see of the clients' metrics."""

    CLIENT = "client"
    SUM = "sum"


RevealOption = Annotated[
    Reveal | None,
    typer.Option(
        "--reveal",
        envvar="FEDKEEPER_REVEAL",
        help="What others see of an error in user code: its class and line, or also its text, which may hold data.",
    ),
]
MetricsOption = Annotated[
    Metrics | None,
    typer.Option(
        "--metrics",
        envvar="FEDKEEPER_METRICS",
        help="What others see of the clients' metrics: each client's, or only their mean.",
    ),
]
DataDir = Annotated[Path | None, typer.Option("--data", envvar="FEDKEEPER_DATA", help="Folder of the datasets' files.")]
KeepDays = Annotated[
    float, typer.Option(min=0, envvar="FEDKEEPER_KEEP_DAYS", help="Delete finished jobs that ended so many days ago.")
]
KeepJobs = Annotated[
    int, typer.Option(min=0, envvar="FEDKEEPER_KEEP_JOBS", help="Keep so many finished jobs; the oldest go first.")
]
KeepBytes = Annotated[
    str,
    typer.Option(
        envvar="FEDKEEPER_KEEP_BYTES",
        metavar="SIZE",
        help="Keep finished jobs whose models have this size together, such as 500MB or 2GB; the oldest go first.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, a line for each.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only the result, and what fails.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log everything.")]


def retention(days: float, jobs: int, size: str) -> Retention:
    """Return which finished jobs are kept, from the options.

    Args:
        days: value of `--keep-days`.
        jobs: value of `--keep-jobs`.
        size: value of `--keep-bytes`.

    Raises:
        BadOption: the size is not a number of bytes.
    """
    match = _SIZE.fullmatch(size.strip().upper())
    if match is None:
        raise BadOption(f"--keep-bytes = {size!r}: expected a number of bytes, such as 500000000, 500MB or 2GB")
    return Retention(days, jobs, int(float(match[1]) * _UNITS[match[2]]))


def duration_s(option: str, text: str) -> float:
    """Return the seconds of a duration such as `90 s`, `10min`, `2h` or `30d`.

    Args:
        option: the option's name, for the error.
        text: its value.

    Raises:
        BadOption: it is no duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise BadOption(f"{option} = {text!r}: expected a number and s, min, h or d, such as 10min")
    return float(match[1]) * _SECONDS[match[2]]


def url_option(url: str) -> str:
    """Return the option that gives another command the same broker, with a space before it; empty: it needs none.

    Args:
        url: the value of this command's option, or of its variable. A password in it is not shown.
    """
    return "" if url == (os.environ.get(URL_VARIABLE) or broker_note.read()) else own_url_option(url)


def own_url_option(url: str) -> str:
    """Return the same option for a command that looks nowhere else for its broker; empty: there is none.

    Args:
        url: the value of this command's option. A password in it is not shown.
    """
    if not url:
        return ""
    address = BrokerUrl.parse(url)
    return f" --url {shlex.quote(url if address.password is None else str(address))}"


def broker_url(option: str, *, replicas: int = 1) -> str:
    """Return the broker's address: the option's value, or the address of `fedkeeper up` in this folder.

    Args:
        option: the value of the option.
        replicas: number of nodes that shall keep each stream; 1 adds nothing to the address.

    Raises:
        BadOption: the option is empty and `fedkeeper up` does not run in this folder.
    """
    if url := option or broker_note.read():
        return url if replicas == 1 else f"{url}{'&' if '?' in url else '?'}replicas={replicas}"
    raise BadOption("which broker? give --url or FEDKEEPER_URL, or start `fedkeeper up` in this folder")
