"""The commands `fedkeeper clients ...`: list and edit the client register."""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from broker.messages.register import ClientRecord, ClientStats
from broker.support import logs
from broker.topics import checked_id
from client_fn.data import places
from fedkeeper import completion, running
from fedkeeper.commands import clients_check
from fedkeeper.display import screen
from fedkeeper.display.columns import Column
from fedkeeper.display.units import format_age
from fedkeeper.errors import BadOption
from fedkeeper.options import Json, Url, Verbose, broker_url
from fedkeeper.results import ChangedClient, ListedClient
from fedkeeper.sdk import Client, connect
from fedkeeper.sites import client_file, data_places
from fedkeeper.sites.client_file import Change

app = typer.Typer(help="List the clients; add, check, remove or pause them.")

Ids = Annotated[
    list[str], typer.Argument(metavar="CLIENT", autocompletion=completion.client_ids, help="Ids of clients.")
]

COLUMNS: Final = (
    Column("client", least=25),
    Column("platform", least=8),
    Column("state"),
    Column("seen", rank=1, is_number=True),
    Column("runs", rank=1, is_number=True),
    Column("failed", rank=1, is_number=True),
    Column("samples", rank=2, is_number=True),
    Column("cold", rank=3, is_number=True),
    Column("labels", rank=4, least=20),
    Column("data", rank=5, least=20),
)
"""Narrow screens have the first ones. A pipe and --verbose get all of them."""


@app.callback(invoke_without_command=True)
def clients(context: typer.Context, url: Url = "", as_json: Json = False, verbose: Verbose = False) -> None:
    """List every client: its platform, its state and its data."""
    if context.invoked_subcommand is None:
        list_clients(url, as_json=as_json, verbose=verbose)


@running.command
async def list_clients(url: str, *, as_json: bool, verbose: bool) -> None:
    """Print the register with each client's statistics."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        records, stats, warnings = await sdk.clients(), await sdk.client_stats(), await sdk.clock_warnings()
    rows = [client_row(record, stats.get(record.id), time.time()) for record in records]
    if as_json:
        for record in records:
            screen.print_json(result(record, stats.get(record.id)))
    elif verbose:
        screen.print_table(tuple(column.name for column in COLUMNS), rows)
    else:
        screen.print_list(COLUMNS, rows)
    for warning in warnings:
        screen.say(warning)


def client_row(record: ClientRecord, stats: ClientStats | None, now_s: float) -> tuple[str, ...]:
    """Return the cells of a client's row.

    Args:
        record: the client's entry in the register.
        stats: the statistics of its invocations; None: it was never invoked.
        now_s: the time now, in seconds since the epoch.
    """
    if stats is None:
        state, seen, counts = "registered", "", ("0", "0", "0")
    else:
        state, seen = stats.state, format_age(now_s - stats.seen_s)
        counts = str(stats.invocations), str(stats.failures), str(stats.cold)
    runs, failed, cold = counts
    return (
        record.id,
        record.platform,
        "paused" if record.paused else state,
        seen,
        runs,
        failed,
        str(record.samples or "?"),
        cold,
        ", ".join(f"{key}={value}" for key, value in record.labels.items()),
        places.without_secrets(record.data_loc),
    )


def result(record: ClientRecord, stats: ClientStats | None) -> ListedClient:
    """Return a client's line for programs.

    Args:
        record: the client's entry in the register.
        stats: the statistics of its invocations; None: it was never invoked.
    """
    return ListedClient(
        client=record.id,
        platform=record.platform,
        state="registered" if stats is None else stats.state,
        paused=record.paused,
        seen_s=None if stats is None else stats.seen_s,
        invocations=0 if stats is None else stats.invocations,
        failures=0 if stats is None else stats.failures,
        cold=0 if stats is None else stats.cold,
        samples=record.samples,
        labels=record.labels,
        data_loc=places.without_secrets(record.data_loc),
    )


@app.command()
@running.command
async def add(
    client: Annotated[
        str, typer.Argument(help="The client's id: a-z, 0-9 and '-', at most 40; or --from FILE instead.")
    ] = "",
    platform: Annotated[str, typer.Option(help="The platform that hosts its function; a board's name.")] = "",
    data_loc: Annotated[str, typer.Option("--data-loc", help="fsspec URL of its shard.")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="`data=...` names its data.")] = None,
    function: Annotated[str, typer.Option(help="Name of its function there; default: its id.")] = "",
    samples: Annotated[int, typer.Option(min=0, help="Size of its shard; 0: counted if it lies here.")] = 0,
    state_loc: Annotated[
        str, typer.Option("--state-loc", help="Folder or fsspec URL for its personal layers; default: beside its data.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Look at the shard; not if it lies on another machine.")
    ] = True,
    file: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Add every client of a CSV file, or change its entry."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --from: only show what would change.")] = False,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Add a client to the register, or replace its entry. Its function is created elsewhere."""
    logs.configure(quiet=True)
    if file is not None:
        if client or platform or data_loc or label or function or samples or state_loc:
            raise BadOption(f"--from {file} names the clients and all about them: leave the client and its options out")
        await add_from(file, broker_url(url), is_dry=dry_run, as_json=as_json)
        return
    if not client or not platform or dry_run:
        raise BadOption("give a client and its --platform, or --from FILE for many clients; --dry-run goes with --from")
    data_loc = data_places.absolute(data_loc, is_here=check)
    if check:
        samples = data_places.count(data_loc, samples, os.environ)
    record = ClientRecord(
        id=checked_id(client),
        platform=checked_id(platform),
        function=function or client,
        url=function,
        data_loc=data_loc,
        labels=dict(_parse_label(text) for text in label or ()),
        samples=samples,
        state_loc=data_places.absolute(state_loc, is_here=check),
    )
    async with connect(broker_url(url)) as sdk:
        before = await sdk.client(record.id)
        await sdk.register([record])
    (change,) = client_file.compare([record], [] if before is None else [before])
    text = f"registered {record.id}" + (f" with {samples} samples" if samples else "")
    screen.show(_changed(change), text, as_json=as_json)
    if data_loc and not check:
        screen.say(f"look at its data there: fedkeeper clients check {record.id}")


def _changed(change: Change) -> ChangedClient:
    record = change.record
    return ChangedClient(client=record.id, entry=change.kind, fields=change.fields, samples=record.samples)


async def add_from(file: Path, url: str, *, is_dry: bool, as_json: bool) -> None:
    """Register the clients of a file, and say what is new or has changed.

    Args:
        file: the CSV file.
        url: the broker's address.
        is_dry: whether to change nothing.
        as_json: whether to print every client for programs.
    """
    clients = client_file.read(file)
    async with connect(url, provision=not is_dry) as sdk:
        changes = client_file.compare(clients, await sdk.clients())
        if not is_dry:
            await sdk.register([change.record for change in changes if change.kind != "same"])
    if as_json:
        for change in changes:
            screen.print_json(_changed(change))
        return
    rows = [
        (change.record.id, change.record.platform, change.kind, ", ".join(change.fields))
        for change in changes
        if change.kind != "same"
    ]
    if rows:
        screen.print_table(("client", "platform", "entry", "fields"), rows)
    counts = Counter(change.kind for change in changes)
    text = f"{len(changes)} clients: {counts['new']} new, {counts['changed']} changed, {counts['same']} the same"
    typer.echo(f"{text}; nothing was written" if is_dry else text)
    if not is_dry and any(change.kind == "new" and not change.record.samples for change in changes):
        typer.echo("look at their data, and register its samples: fedkeeper clients check --all --register")


def _parse_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise BadOption(f"--label {text}: write a label as KEY=VALUE")
    return key, value


app.command("check")(clients_check.check)


@app.command()
@running.command
async def remove(ids: Ids, url: Url = "", as_json: Json = False) -> None:
    """Remove clients from the register. Their functions stay; `fedkeeper deploy --remove` deletes those."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        for client in ids:
            await _registered(sdk, client)
            await sdk.unregister(client)
            screen.show(ChangedClient(client=client, entry="removed"), f"removed {client}", as_json=as_json)


@app.command()
@running.command
async def pause(
    ids: Ids,
    resume: Annotated[bool, typer.Option("--resume", help="Let them take part again.")] = False,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Leave clients out of the cohorts, from the next round on. --resume lets them take part again."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        for client in ids:
            record = await _registered(sdk, client)
            await sdk.register([msgspec.structs.replace(record, paused=not resume)])
            paused = ChangedClient(
                client=client,
                entry="same" if record.paused is not resume else "changed",
                fields=() if record.paused is not resume else ("paused",),
                samples=record.samples,
            )
            screen.show(paused, f"{client} is {'not paused' if resume else 'paused'}", as_json=as_json)


async def _registered(sdk: Client, client: str) -> ClientRecord:
    """Return a client's entry in the register; fail if it has none."""
    record = await sdk.client(client)
    if record is None:
        raise BadOption(f"no client {client!r} is registered; `fedkeeper clients` lists them")
    return record
