"""The command `fedkeeper sites`: which boards and clusters are there, what they have, and what fails."""

import difflib
import textwrap
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

import typer

from broker.support import logs
from fedkeeper import completion, running
from fedkeeper.display import screen
from fedkeeper.display.units import format_age, format_memory, format_rough
from fedkeeper.errors import BadOption
from fedkeeper.exit_codes import ExitCode
from fedkeeper.options import Json, Url, broker_url
from fedkeeper.results import SiteList
from fedkeeper.sdk import connect
from fedkeeper.sites.site_list import Site, SiteHost

app = typer.Typer()

COLUMNS: Final = ("site", "state", "seen", "clients", "device", "memory", "disk", "version")

WIDTH: Final = 80

_NAMES: Final = 11


@app.command("sites")
@running.command
async def sites(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=completion.sites,
            help="Only these, with everything that is known; or patterns: 'board-*'.",
        ),
    ] = None,
    url: Url = "",
    as_json: Json = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if something fails at a site.")] = False,
) -> None:
    """List the sites: boards and clusters, with their bridges. Those where something fails come first."""
    from fedkeeper import __version__

    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        found = chosen(await sdk.sites(), names or [])
    if as_json:
        document = SiteList(time_s=time.time(), version=__version__, sites=found)
        screen.print_json(document)
    elif names and not any(_is_pattern(name) for name in names):
        screen.echo("\n\n".join("\n".join(details(site)) for site in found))
    else:
        print_sites(found)
    if check and any(site.problems for site in found):
        raise typer.Exit(ExitCode.FAILED)


def chosen(sites: Sequence[Site], names: Sequence[str]) -> list[Site]:
    """Return the sites with some names; all of them if no name is given.

    Args:
        sites: all sites.
        names: names, or patterns with `*`, `?` or `[...]`.

    Raises:
        BadOption: no site has one of the names.
    """
    for name in names:
        if not any(fnmatchcase(site.name, name) for site in sites):
            similar = difflib.get_close_matches(name, [site.name for site in sites], 1)
            hint = f"did you mean {similar[0]!r}?" if similar else "`fedkeeper sites` lists them"
            raise BadOption(f"no site {name!r}: {hint}")
    return [site for site in sites if not names or any(fnmatchcase(site.name, name) for name in names)]


def _is_pattern(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def print_sites(sites: Sequence[Site]) -> None:
    """Print a table of sites on standard output, and below it what fails and what may surprise."""
    if not sites:
        screen.echo("no bridge has announced itself yet, and no client is registered")
        return
    screen.print_table(COLUMNS, [row for site in sites for row in rows(site)])
    for column, kind in (("what fails", "problems"), ("to be known", "notes")):
        if sentences := [(site.name, text) for site in sites for text in getattr(site, kind)]:
            screen.echo("")
            screen.print_table(("site", column), sentences)


def rows(site: Site) -> list[tuple[str, ...]]:
    """Return the cells of a site's row, and if it has several hosts, of a row for each."""
    shown = [host for host in site.hosts if host.state != "gone"] or list(site.hosts[:1])
    clients = str(site.clients) + (f" ({site.paused} paused)" if site.paused else "")
    state = "fails" if site.problems and site.state == "up" else site.state
    if len(shown) == 1:
        return [(site.name, state, *_cells(shown[0], clients))]
    if not shown:
        return [(site.name, state, "", clients, *[""] * 4)]
    first = (site.name, state, "", clients, *[""] * 4)
    return [first, *((f"  {host.name or host.bridge}", host.state, *_cells(host, "")) for host in shown)]


def _cells(host: SiteHost, clients: str) -> tuple[str, ...]:
    return (
        "?" if host.age_s is None else format_rough(host.age_s),
        clients,
        "?" if host.device is None else host.device,
        "?" if host.memory_mb is None else format_memory(host.memory_mb),
        "?" if host.disk_mb is None else format_memory(host.disk_mb),
        host.version or "?",
    )


def details(site: Site) -> list[str]:
    """Return the lines of everything that is known of a site."""
    kinds = {None: None, True: "one machine", False: "shared by the hosts that serve it"}
    facts: list[tuple[str, Any]] = [
        ("state", site.state),
        ("platform", kinds[site.is_own]),
        ("clients", f"{site.clients}, {site.paused} of them paused" if site.paused else site.clients),
        *(("fails", text) for text in site.problems),
        *(("note", text) for text in site.notes),
    ]
    lines = [site.name, *_table(facts, "  ")]
    for host in site.hosts:
        lines += [f"  host {host.name or '?'}, bridge {host.bridge}", *_table(_facts(host), "    ")]
    return lines


def _facts(host: SiteHost) -> list[tuple[str, Any]]:
    ahead_s = host.clock_ahead_s
    return [
        ("state", host.state),
        ("last word", None if host.age_s is None else format_age(host.age_s)),
        ("clock", None if ahead_s is None else f"{ahead_s:+.1f} s"),
        ("version", host.version),
        ("broker", host.broker),
        ("device", None if host.device is None else host.device or "as the job says, or nothing trains here"),
        ("processor", host.processor),
        ("free memory", None if host.memory_mb is None else format_memory(host.memory_mb)),
        ("free disk", None if host.disk_mb is None else format_memory(host.disk_mb)),
    ]


def _table(facts: Sequence[tuple[str, Any]], indent: str) -> list[str]:
    """Return a line for each fact, or several that fit the width."""
    further = " " * (len(indent) + _NAMES + 1)
    lines: list[str] = []
    for name, value in facts:
        text = f"{indent}{name:<{_NAMES}} {'?' if value is None else value}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    return lines
