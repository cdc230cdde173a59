"""`fedkeeper clients`: the register, and how its clients do."""

import time
from collections.abc import Callable
from typing import Annotated

import msgspec
import typer

from broker.messages.register import ClientRecord, ClientStats
from broker.support import logs
from broker.topics import checked_id
from fedkeeper import running, screen
from fedkeeper.errors import BadOption, NoSuchClient
from fedkeeper.options import Url, url_of
from fedkeeper.sdk import connect

app = typer.Typer(help="List the client register; add, remove or pause clients.")

Ids = Annotated[list[str], typer.Argument(metavar="CLIENT...", help="Ids of clients.")]


@app.callback(invoke_without_command=True)
def clients(context: typer.Context, url: Url = "") -> None:
    """List every client: where it lives, how it does, what it holds."""
    if context.invoked_subcommand is None:
        logs.configure(quiet=True)
        running.run(_list(url))


async def _list(url: str) -> None:
    async with connect(url_of(url), provision=False) as fabric:
        found, tallies = await fabric.clients(), await fabric.tallies()
    rows = [row(client, tallies.get(client.id), time.time()) for client in found]
    names = ("client", "platform", "state", "seen", "runs", "failed", "cold", "samples", "labels", "data")
    screen.show_list(names, rows)


def row(client: ClientRecord, tally: ClientStats | None, now_s: float) -> tuple[str, ...]:
    """A client as a row of the list."""
    counts = ("", "0", "0", "0") if tally is None else _counts(tally, now_s)
    return (
        client.id,
        client.platform,
        "paused" if client.paused else "registered" if tally is None else tally.state,
        *counts,
        str(client.samples or "?"),
        ", ".join(f"{key}={value}" for key, value in client.labels.items()),
        client.data_loc,
    )


def _counts(tally: ClientStats, now_s: float) -> tuple[str, ...]:
    return ago(now_s - tally.seen_s), str(tally.invocations), str(tally.failures), str(tally.cold)


def ago(seconds: float) -> str:
    """A time that has passed, readable at a glance."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


@app.command()
def add(
    client: Annotated[str, typer.Argument(help="The client's id: a-z, 0-9 and '-', at most 40.")],
    platform: Annotated[str, typer.Option(help="The platform that hosts its function.")],
    data_loc: Annotated[str, typer.Option("--data-loc", help="fsspec URL of its shard.")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="`data=...` says what it holds.")] = None,
    function: Annotated[str, typer.Option(help="Name of its function there; default: its id.")] = "",
    samples: Annotated[int, typer.Option(min=0, help="Size of its shard; 0: not known.")] = 0,
    url: Url = "",
) -> None:
    """Write a client into the register, or write it anew; its function is somebody else's business."""
    logs.configure(quiet=True)
    record = ClientRecord(
        id=checked_id(client),
        platform=checked_id(platform),
        function=function or client,
        url=function,
        data_loc=data_loc,
        labels=dict(_label(one) for one in label or ()),
        samples=samples,
    )
    running.run(_add(record, url))


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise BadOption(f"--label {text}: write a label as KEY=VALUE")
    return key, value


async def _add(record: ClientRecord, url: str) -> None:
    async with connect(url_of(url)) as fabric:
        await fabric.register([record])
    typer.echo(f"registered {record.id}")


@app.command()
def remove(ids: Ids, url: Url = "") -> None:
    """Take clients out of the register; their functions stay (`fedkeeper deploy --remove` deletes those)."""
    logs.configure(quiet=True)
    running.run(_remove(ids, url))


async def _remove(ids: list[str], url: str) -> None:
    async with connect(url_of(url), provision=False) as fabric:
        for client in ids:
            if await fabric.client(client) is None:
                raise NoSuchClient(client)
            await fabric.unregister(client)
            typer.echo(f"removed {client}")


@app.command()
def pause(
    ids: Ids, resume: Annotated[bool, typer.Option("--resume", help="Let them take part again.")] = False, url: Url = ""
) -> None:
    """Leave clients out of the cohorts from the next round on, or let them take part again."""
    logs.configure(quiet=True)
    running.run(_change(ids, url, lambda client: msgspec.structs.replace(client, paused=not resume)))


async def _change(ids: list[str], url: str, change: Callable[[ClientRecord], ClientRecord]) -> None:
    async with connect(url_of(url), provision=False) as fabric:
        for client in ids:
            known = await fabric.client(client)
            if known is None:
                raise NoSuchClient(client)
            changed = change(known)
            await fabric.register([changed])
            typer.echo(f"{client} is {'paused' if changed.paused else 'not paused'}")
