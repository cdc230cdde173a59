"""The sites of a system, from what the bridges last said and from the register."""

from typing import Any

import msgspec
import pytest

from broker.messages.register import ClientRecord, Host, Presence
from fedkeeper.sites import site_list
from fedkeeper.sites.site_list import MAX_TEXT, Site, Word


def word(
    platform: str = "board-1", *, host: str = "board-1", age_s: float | None = 2.0, ahead_s: float = 0.0, **said: Any
) -> Word:
    """What a bridge last said; `said` overrides fields of its announcement and of its machine."""
    machine = {name: said.pop(name) for name in list(said) if name in Host.__struct_fields__}
    facts: dict[str, Any] = {"id": f"{host}-boot", "version": "0.2.0", "device": "cuda", "memory_mb": 3000}
    at = Host(name=host, **{**facts, "disk_mb": 20_000, "processor": "arm64 with NEON", **machine})
    return Word(Presence(**{"bridge": host, "platform": platform, "every_s": 5.0, "host": at, **said}), age_s, ahead_s)


def client(name: str, platform: str = "board-1", *, paused: bool = False) -> ClientRecord:
    return ClientRecord(id=name, platform=platform, paused=paused)


def site(*words: Word, clients: tuple[ClientRecord, ...] = ()) -> Site:
    (found,) = site_list.sites(words, clients, version="0.2.0")
    return found


def test_a_site_has_what_its_bridge_says_and_its_clients() -> None:
    found = site(word(is_own=True), clients=(client("a"), client("b", paused=True)))
    assert (found.name, found.state, found.clients, found.paused, found.is_own) == ("board-1", "up", 2, 1, True)
    assert (found.problems, found.notes) == ((), ())
    (host,) = found.hosts
    assert (host.name, host.version, host.device, host.memory_mb, host.disk_mb) == (
        *("board-1", "0.2.0", "cuda", 3000, 20_000),
    )
    assert (host.age_s, host.clock_ahead_s, host.processor, host.problem) == (2.0, 0.0, "arm64 with NEON", "")


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (word(age_s=15.0), "up"),
        (word(age_s=16.0), "silent"),
        (word(age_s=None), "silent"),
        (word(age_s=1.0, gone=True), "gone"),
        (word(age_s=1.0, gone=True, clock_s=9.0), "unable"),
        (word(age_s=99.0, gone=True, clock_s=9.0), "silent"),
        (word(age_s=1e9, every_s=1e300), "silent"),
        (word(age_s=0.0, every_s=-1.0), "silent"),
    ],
)
def test_a_bridge_is_silent_after_three_intervals(said: Word, state: str) -> None:
    assert site(said).state == state


@pytest.mark.parametrize(
    ("words", "clients", "problem"),
    [
        ([word(problem="cuda can't be used: no kernel image")], 0, "cuda can't be used: no kernel image"),
        ([word(age_s=7300.0)], 0, "no word from its bridge for 2 h"),
        ([word(gone=True)], 1, "its bridge ended, or lost its connection, and 1 client waits for it"),
        ([word(gone=True)], 0, None),
        ([word(gone=True, clock_s=9.0)], 0, "its bridge can run no task; its log says why"),
        ([word(gone=True, clock_s=9.0, problem="no cuda")], 3, "no cuda"),
        ([], 2, "2 clients registered, and no bridge of this name was ever seen: start one, or remove them"),
        ([word(), word(host="b")], 0, None),
        (
            [word(is_own=True), word(host="b", is_own=True)],
            0,
            "b and board-1 have the same name, and take each other's tasks: give each a name of its own",
        ),
        ([word(is_own=True), word(bridge="second", is_own=True)], 0, None),
        ([word(is_own=True), word(host="b", is_own=True, problem="old", gone=True)], 0, None),
        ([word(), word(host="b", problem="no room on its disk")], 0, "b: no room on its disk"),
    ],
)
def test_what_fails_at_a_site_is_a_sentence(words: list[Word], clients: int, problem: str | None) -> None:
    registered = [client(f"c-{number}") for number in range(clients)]
    (found,) = site_list.sites(words, registered, version="0.2.0")
    assert found.problems == (() if problem is None else (problem,))


@pytest.mark.parametrize(
    ("words", "paused", "notes"),
    [
        ([word(version="0.1.0")], 0, ["it has FedKeeper 0.1.0, this command 0.2.0"]),
        ([word(ahead_s=-90.0)], 0, ["its clock is 2 min behind: set it, e.g. with NTP"]),
        ([word(ahead_s=4.0)], 0, []),
        ([word()], 1, ["all of its clients are paused"]),
        ([word(), word(host="b", age_s=60.0)], 0, ["no word from b for 1 min; others are there"]),
        ([word(), word(host="b", age_s=60.0, gone=True, version="0.1.0")], 0, []),
    ],
)
def test_what_may_surprise_is_a_note_and_fails_nothing(words: list[Word], paused: int, notes: list[str]) -> None:
    found = site(*words, clients=tuple(client(f"c-{number}", paused=True) for number in range(paused)))
    assert (list(found.notes), found.problems) == (notes, ())


def test_sites_where_something_fails_come_first_and_those_that_nobody_waits_for_last() -> None:
    words = [word("b"), word("d", problem="hot"), word("a", gone=True), word("c", age_s=99.0)]
    found = site_list.sites(words, [client("x", "no-bridge")], version="0.2.0")
    assert [each.name for each in found] == ["c", "d", "no-bridge", "b", "a"]


def test_two_hosts_of_a_shared_platform_are_one_site() -> None:
    found = site(word("cluster", host="n2"), word("cluster", host="n1"), word("cluster", host="n0", gone=True))
    assert [(host.name, host.state) for host in found.hosts] == [("n1", "up"), ("n2", "up"), ("n0", "gone")]
    assert (found.state, found.is_own, found.problems) == ("up", False, ())


def test_a_bridge_of_an_older_version_says_nothing_of_its_machine() -> None:
    old = Word(Presence(bridge="old", platform="board-1", every_s=5.0), 2.0, None)
    (host,) = site(old).hosts
    facts = (host.name, host.version, host.broker, host.processor, host.device, host.memory_mb, host.problem)
    assert facts == (None,) * 7
    assert (site(old).notes, site(old).is_own) == ((), None)


def test_hostile_words_are_shortened_cleaned_and_bounded() -> None:
    hostile = word(
        host="a\x1b[2J\nb",
        problem="x" * 1_000_000,
        version="[red]1[/red]",
        memory_mb=-5,
        disk_mb=1 << 60,
        ahead_s=1e308,
    )
    (host,) = site(hostile).hosts
    assert host.name == "a\\u001b[2J\\u000ab"
    assert host.problem is not None
    assert len(host.problem) == MAX_TEXT
    assert (host.version, host.memory_mb, host.disk_mb, host.clock_ahead_s) == ("[red]1[/red]", None, None, None)


def test_a_site_can_be_written_as_json() -> None:
    raw = msgspec.to_builtins(site(word()))
    assert set(raw) == {"name", "state", "clients", "paused", "problems", "notes", "is_own", "hosts"}
    assert set(raw["hosts"][0]) == {
        *("bridge", "state", "age_s", "clock_ahead_s", "name", "version", "broker", "processor", "device"),
        *("memory_mb", "disk_mb", "problem"),
    }
