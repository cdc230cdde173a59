"""The screens of `fedkeeper sites`."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from fedkeeper.commands import sites
from fedkeeper.display import screen
from fedkeeper.errors import BadOption
from fedkeeper.sdk import Client
from fedkeeper.sites.site_list import Site, SiteHost
from tests.support.command import run_here

Show = Callable[..., Result]


def host(name: str = "board-1", state: Any = "up", **facts: Any) -> SiteHost:
    known = {"version": "0.2.0", "device": "cuda", "memory_mb": 3174, "disk_mb": 21504, "problem": "", "processor": "a"}
    clocks = {"age_s": 3.0, "clock_ahead_s": 0.1, "broker": "nats://backbone.example.org:4222"}
    return SiteHost(**{"bridge": f"{name}-0a1b2c3d", "state": state, "name": name, **clocks, **known, **facts})


def site(name: str = "board-1", *hosts: SiteHost, **facts: Any) -> Site:
    found = hosts or (host(name),)
    return Site(**{"name": name, "state": found[0].state, "clients": 2, "paused": 0, "hosts": found, **facts})


SILENT = site("board-3", host("board-3", "silent", age_s=7300.0, device="cpu"), problems=("no word for 2 h",))
FAILING = site("board-2", problems=("device cuda can't be used: no kernel image is available for execution here",))
CLUSTER = site("cluster", host("n1", device=""), host("n2", device=""), host("old", "gone"), clients=9, paused=4)
OLD = site("old", SiteHost(bridge="old-1", state="up", age_s=None, clock_ahead_s=None), clients=0, is_own=False)
EMPTY = Site(name="board-9", state="no bridge", clients=1, paused=0, problems=("1 client registered, and no bridge",))


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Run `fedkeeper sites` with these sites, on a screen of 80 columns."""

    def run(sites: list[Site], *arguments: str) -> Result:
        async def found(_: Client) -> list[Site]:
            return sites

        monkeypatch.setattr(Client, "sites", found)
        monkeypatch.setattr(screen, "list_width", lambda: 80)
        return run_here("sites", "--url", "memory://sites", *arguments)

    return run


def test_each_site_has_a_row_and_what_fails_is_said_below(show: Show) -> None:
    result = show([FAILING, SILENT, EMPTY, site(), CLUSTER, OLD])
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert max(map(len, lines)) <= 80
    table = [line.split() for line in lines[: lines.index("")]]
    assert table == [
        ["site", "state", "seen", "clients", "device", "memory", "disk", "version"],
        ["board-2", "fails", "3", "s", "2", "cuda", "3.1", "GiB", "21.0", "GiB", "0.2.0"],
        ["board-3", "silent", "2", "h", "2", "cpu", "3.1", "GiB", "21.0", "GiB", "0.2.0"],
        ["board-9", "no", "bridge", "1"],
        ["board-1", "up", "3", "s", "2", "cuda", "3.1", "GiB", "21.0", "GiB", "0.2.0"],
        ["cluster", "up", "9", "(4", "paused)"],
        ["n1", "up", "3", "s", "3.1", "GiB", "21.0", "GiB", "0.2.0"],
        ["n2", "up", "3", "s", "3.1", "GiB", "21.0", "GiB", "0.2.0"],
        ["old", "up", "?", "0", "?", "?", "?", "?"],
    ]
    assert "no kernel image is available" in " ".join(result.output.split())
    assert result.exit_code == 0


def test_names_of_any_length_fit_the_screen_and_are_not_cut(show: Show) -> None:
    name = "a-board-with-a-name-of-forty-characters1"
    output = show([site(name, clients=123, paused=45), site("b", problems=("x" * 300,))]).output
    assert max(len(line.rstrip()) for line in output.splitlines()) <= 80
    assert output.count("x") >= 300


def test_without_any_site_the_screen_says_so(show: Show) -> None:
    assert show([]).output == "no bridge has announced itself yet, and no client is registered\n"


def test_markup_and_control_characters_are_shown_and_not_obeyed(show: Show) -> None:
    hostile = host("[red]x[/red]", device="[bold]", version="\x1b[2J", problem="")
    for arguments in ((), ("board-1",), ("--json",)):
        output = show([site("board-1", hostile, problems=("\x1b]0;title\x07 [blink]",))], *arguments).output
        assert not {letter for letter in output if ord(letter) < 32} - {"\n"}
        assert "[blink]" in output
        assert "[bold]" in output


def test_json_is_one_document_with_raw_numbers_and_null_for_what_is_not_known(show: Show) -> None:
    document = json.loads(show([SILENT, OLD, EMPTY], "--json").output)
    assert set(document) == {"time_s", "version", "sites"}
    silent, old, empty = document["sites"]
    assert (silent["hosts"][0]["age_s"], silent["hosts"][0]["memory_mb"]) == (7300.0, 3174)
    assert (old["hosts"][0]["device"], old["hosts"][0]["age_s"], old["is_own"]) == (None, None, False)
    assert (empty["hosts"], empty["state"], empty["is_own"]) == ([], "no bridge", None)


def test_a_site_that_is_named_is_shown_with_all_that_is_known(show: Show) -> None:
    output = show([FAILING, site(is_own=True), CLUSTER], "board-1").output
    assert output.splitlines() == [
        "board-1",
        "  state       up",
        "  platform    one machine",
        "  clients     2",
        "  host board-1, bridge board-1-0a1b2c3d",
        "    state       up",
        "    last word   3 s ago",
        "    clock       +0.1 s",
        "    version     0.2.0",
        "    broker      nats://backbone.example.org:4222",
        "    device      cuda",
        "    processor   a",
        "    free memory 3.1 GiB",
        "    free disk   21.0 GiB",
    ]
    both = show([FAILING, CLUSTER], "cluster", "board-2").output
    assert both.count("  host ") == 4
    assert "  clients     9, 4 of them paused" in both
    assert max(map(len, both.splitlines())) <= 80


def test_sites_are_chosen_by_names_and_patterns(show: Show) -> None:
    assert [each.name for each in sites.chosen([FAILING, SILENT, CLUSTER], ["board-*"])] == [
        "board-2",
        "board-3",
    ]
    assert show([FAILING, CLUSTER], "board-*").output.startswith(" site")
    with pytest.raises(BadOption, match="no site 'bord-2': did you mean 'board-2'"):
        sites.chosen([FAILING, CLUSTER], ["bord-2"])
    with pytest.raises(BadOption, match="no site 'x': `fedkeeper sites` lists them"):
        sites.chosen([FAILING, CLUSTER], ["x"])


def test_check_tells_by_its_exit_code_whether_something_fails(show: Show) -> None:
    for arguments in (("--check",), ("--check", "--json")):
        assert show([site(), CLUSTER], *arguments).exit_code == 0
        assert show([site(), FAILING], *arguments).exit_code == 1
