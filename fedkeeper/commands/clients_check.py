"""The command `fedkeeper clients check`: what clients' data is, as their sites see it."""

import asyncio
import itertools
import textwrap
from typing import Annotated, Final

import msgspec
import typer

from broker.messages.data_report import Column, DataReport
from broker.messages.register import ClientRecord
from broker.support import logs
from broker.support.tasks import task_group
from fedkeeper import completion, running
from fedkeeper.display import screen
from fedkeeper.display.units import format_size
from fedkeeper.errors import BadOption, NotChecked
from fedkeeper.exit_codes import ExitCode
from fedkeeper.options import Json, Url, broker_url
from fedkeeper.results import CheckedClient
from fedkeeper.sdk import Client, connect
from fedkeeper.sites.checking import CHECK_S

AT_ONCE: Final = 32
"""How many clients are checked at the same time."""

WIDTH: Final = 80
"""Characters of a line. Programs read --json."""

SHOWN: Final = 12
"""How many columns a person sees; --json has more."""

_KINDS: Final = {
    "safetensors": "a safetensors shard",
    "npz": "a NumPy file",
    "csv": "a CSV file",
    "parquet": "a Parquet file",
    "folder": "a folder",
    "file": "a file of an unknown format",
}


@running.command
async def check(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="CLIENT", autocompletion=completion.client_ids, help="Ids of clients."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every registered client.")] = False,
    as_json: Json = False,
    register: Annotated[bool, typer.Option("--register", help="Register the number of samples that is found.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=15.0, help="How long to wait for a site, in seconds.")
    ] = CHECK_S,
    url: Url = "",
) -> None:
    """Let each client's site look at its data, before any round. No value of the data leaves the site."""
    logs.configure(quiet=True)
    if bool(ids) == every:
        raise BadOption("name clients, or give --all")
    async with connect(broker_url(url), provision=False) as sdk:
        records = {record.id: record for record in await sdk.clients()}
        wanted = list(records) if every else list(dict.fromkeys(ids or ()))
        if unknown := [client for client in wanted if client not in records]:
            raise BadOption(f"no client {unknown[0]!r} is registered; `fedkeeper clients` lists them")
        reports = await _check_all(sdk, wanted, timeout_s)
        if register:
            await _register(sdk, reports)
    for client in wanted:
        report = reports[client]
        if as_json:
            screen.print_json(_result(client, report))
        else:
            for line in lines(records[client], report, registers=register):
                screen.echo(line)
    bad = [client for client in wanted if isinstance(report := reports[client], NotChecked) or report.error]
    if bad and not as_json:
        screen.echo(f"{len(bad)} of {len(wanted)} clients can't train, or were not checked")
    if bad:
        raise typer.Exit(ExitCode.FAILED)


def lines(record: ClientRecord, report: DataReport | NotChecked, *, registers: bool = False) -> list[str]:
    """Return a report for people.

    Args:
        record: the client's entry in the register.
        report: what its site says; or why nobody could look.
        registers: whether the number of samples that is found becomes the registered one.
    """
    title = f"{record.id} on {record.platform}"
    if isinstance(report, NotChecked):
        return [f"{title}: not checked", *_wrapped(f"  {report.reason}")]
    place = f"{report.owner} {report.mode}" if report.owner else ""
    reader = {True: f"{report.service} can read it", False: f"{report.service} can't read it", None: ""}
    size = "" if report.bytes is None else format_size(report.bytes)
    found = [
        report.path,
        _joined(_KINDS.get(report.kind, report.kind), size),
        _joined(place, reader[report.is_readable]),
        _samples(record, report, registers=registers),
        *_columns(report),
        f"note: {report.note}" if report.note else "",
        *_state(report),
        f"{report.error}: {report.problem}" if report.error else "",
        f"do: {report.remedy}" if report.remedy else "",
    ]
    title += ": a job would fail" if report.error else ": ok"
    return [title, *itertools.chain(*(_wrapped(f"  {line}") for line in found if line))]


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _samples(record: ClientRecord, report: DataReport, *, registers: bool) -> str:
    if report.samples is None:
        return ""
    what = "rows" if report.kind in {"csv", "parquet"} else "samples"
    text = f"{report.samples:,} {what}"
    if report.classes is not None:
        text += f" of {report.classes} classes"
    if record.samples == report.samples:
        return text
    if registers:
        return f"{text}; registered now, before: {record.samples or 'none'}"
    registered = f"{record.samples:,} are registered" if record.samples else "no number is registered"
    return f"{text}; {registered}: check --register writes it"


def _columns(report: DataReport) -> list[str]:
    """Return the columns, those of one dtype and shape that follow each other as one."""
    if not report.columns:
        return []
    runs: list[list[Column]] = []
    for column in report.columns:
        if runs and _type(runs[-1][0]) == _type(column):
            runs[-1].append(column)
        else:
            runs.append([column])
    is_table = report.kind in {"csv", "parquet"}
    texts = [f"{_names(run)}: {_type(run[0])}" for run in runs[:SHOWN]]
    more = ["..."] if len(runs) > SHOWN or report.column_count > len(report.columns) else []
    head = [f"{report.column_count:,} column{'s' * (report.column_count != 1)}"] if is_table else []
    return [*head, *(f"  {text}" for text in [*texts, *more])]


def _names(run: list[Column]) -> str:
    if not run[0].name:
        return "1 column" if len(run) == 1 else f"{len(run)} columns"
    if len(run) <= 3:  # noqa: PLR2004 (so many fit into a line)
        return ", ".join(column.name for column in run)
    return f"{run[0].name} ... {run[-1].name} ({len(run)})"


def _type(column: Column) -> str:
    shape = f" ({', '.join(['N', *map(str, column.shape)])})" if column.shape else ""
    missing = f", no value in {column.missing:,} rows" if column.missing else ""
    return f"{column.dtype}{shape}{missing}"


def _state(report: DataReport) -> list[str]:
    state = report.state
    if state is None:
        return []
    can = {True: "can be written", False: "can't be written", None: "not tried"}[state.is_writable]
    first = f"own layers: {state.path}"
    second = f"  {_joined(f'{state.owner} {state.mode}'.strip(), state.problem or can)}"
    return [first, second, *([f"  do, if a job has model.personal: {state.remedy}"] if state.remedy else [])]


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _result(client: str, report: DataReport | NotChecked) -> CheckedClient:
    if isinstance(report, NotChecked):
        return CheckedClient(client=client, error="NotChecked", problem=report.reason)
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    return CheckedClient(**{**fields, "client": client})


async def _check_all(sdk: Client, clients: list[str], timeout_s: float) -> dict[str, DataReport | NotChecked]:
    reports: dict[str, DataReport | NotChecked] = {}
    slots = asyncio.Semaphore(AT_ONCE)

    async def check_one(client: str) -> None:
        async with slots:
            try:
                reports[client] = await sdk.check(client, timeout_s=timeout_s)
            except NotChecked as exc:
                reports[client] = exc

    async with task_group() as group:
        for client in clients:
            group.create_task(check_one(client), name=f"check {client}")
    return reports


async def _register(sdk: Client, reports: dict[str, DataReport | NotChecked]) -> None:
    """Write the numbers of samples that were found into the register."""
    for client, report in reports.items():
        record = await sdk.client(client)
        if record is None or isinstance(report, NotChecked) or report.samples in {None, record.samples}:
            continue
        await sdk.register([msgspec.structs.replace(record, samples=report.samples or 0)])
