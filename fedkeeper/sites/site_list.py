"""The sites of a system: what each bridge last said, and the clients that depend on it. Pure.

A site is a platform with its bridges. A board is a site with one bridge; a cluster may have bridges on several hosts.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from broker.messages.register import CLOCK_SKEW_S, MAX_EVERY_S, ClientRecord, Host, Presence
from broker.support import texts
from fedkeeper.display.units import format_rough

MISSED: Final = 3
"""A bridge is silent after so many intervals without a word, as for the server."""

MAX_TEXT: Final = 300
"""Longest text of a bridge that is passed on. Characters."""

_ORDER: Final = ("up", "unable", "silent", "gone")
_THERE: Final = _ORDER[:2]
_MAX_MB: Final = 1 << 40
_MAX_SKEW_S: Final = 1e10

State = Literal["up", "unable", "silent", "gone", "no bridge"]


class Word(NamedTuple):
    """What a bridge last said.

    Attributes:
        presence: its announcement.
        age_s: how long ago, in seconds; None: not known.
        ahead_s: by how many seconds its clock was ahead then; None: not known.
    """

    presence: Presence
    age_s: float | None
    ahead_s: float | None


class SiteHost(msgspec.Struct, frozen=True, kw_only=True):
    """A machine with a bridge of a site. None: not known, such as with a bridge of an older version.

    Attributes:
        bridge: the bridge's name.
        state: `up`; `unable`: it is there and can run no task; `silent`: it stopped announcing itself; `gone`: it
            ended, or the broker lost its connection.
        age_s: time since it last announced itself, or since it was gone, in seconds.
        clock_ahead_s: by how many seconds its clock is ahead; negative: behind.
        name: the machine's host name.
        version: version of FedKeeper.
        broker: address of the broker that the bridge is connected to.
        processor: the kind of processor that models train with.
        device: the device that models train on; empty: as the job says, or nothing trains here.
        memory_mb: free memory, in MiB.
        disk_mb: free space in the bridge's folder, in MiB.
        problem: what fails, as the bridge says it; empty: nothing.
    """

    bridge: str
    state: State
    age_s: float | None
    clock_ahead_s: float | None
    name: str | None = None
    version: str | None = None
    broker: str | None = None
    processor: str | None = None
    device: str | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    problem: str | None = None


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A platform with its bridges and its clients.

    Attributes:
        name: the platform's name.
        state: that of the bridge that is best off; `no bridge`: clients are registered, and no bridge was ever seen.
        clients: number of registered clients.
        paused: number of those that are paused.
        problems: what fails, a sentence each; none: nothing.
        notes: what may surprise and does not fail, a sentence each.
        is_own: whether the platform is one machine; False: several hosts may share it. None: not known.
        hosts: the machines, those that are up first.
    """

    name: str
    state: State
    clients: int
    paused: int
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_own: bool | None = None
    hosts: tuple[SiteHost, ...] = ()


def sites(words: Iterable[Word], clients: Iterable[ClientRecord], *, version: str) -> list[Site]:
    """Return the sites by name: those where something fails first, those that ended and that nobody waits for last.

    Args:
        words: what each bridge last said.
        clients: the registered clients.
        version: the version of FedKeeper to compare the bridges' with.
    """
    words_of, clients_of = defaultdict[str, list[Word]](list), defaultdict[str, list[ClientRecord]](list)
    for word in words:
        words_of[word.presence.platform].append(word)
    for client in clients:
        clients_of[client.platform].append(client)
    names = words_of.keys() | clients_of.keys()
    found = [_site(name, words_of.get(name, []), clients_of.get(name, []), version) for name in names]
    return sorted(found, key=lambda site: (not site.problems, site.state == "gone", site.name))


def _site(name: str, words: Sequence[Word], clients: Sequence[ClientRecord], version: str) -> Site:
    hosts = tuple(sorted((_host(word) for word in words), key=_rank))
    paused = sum(client.paused for client in clients)
    site = Site(
        name=name,
        state=hosts[0].state if hosts else "no bridge",
        clients=len(clients),
        paused=paused,
        is_own=_is_own(word.presence for word in words),
        hosts=hosts,
    )
    machines = {_machine(word) for word in words if state(word) == "up"}
    problems = (*_absence(site), *_twins(site, len(machines)), *_said(site))
    return msgspec.structs.replace(site, problems=problems, notes=tuple(_notes(site, version)))


def _is_own(presences: Iterable[Presence]) -> bool | None:
    """Whether a site is one machine. Neither an older version nor the broker, which announces a lost one, tells."""
    told = [presence.is_own for presence in presences if presence.host is not None or presence.is_own]
    return any(told) if told else None


def _absence(site: Site) -> Iterable[str]:
    """Say that no bridge of a site is there, if somebody may wait for it."""
    waits, count = site.clients > site.paused, f"{site.clients} client{'s' * (site.clients != 1)}"
    match site.state:
        case "no bridge" if waits:
            yield f"{count} registered, and no bridge of this name was ever seen: start one, or remove them"
        case "unable" if not any(host.problem for host in site.hosts):
            yield "its bridge can run no task; its log says why"
        case "silent":
            yield f"no word from its bridge for {_duration(site.hosts[0].age_s)}"
        case "gone" if waits:
            yield f"its bridge ended, or lost its connection, and {count} wait{'s' * (site.clients == 1)} for it"


def _twins(site: Site, machines: int) -> Iterable[str]:
    """Say that several machines have the name of one."""
    if site.is_own and machines > 1:
        names = " and ".join(host.name or host.bridge for host in site.hosts if host.state == "up")
        yield f"{names} have the same name, and take each other's tasks: give each a name of its own"


def _said(site: Site) -> Iterable[str]:
    """What the bridges themselves say that fails. A machine that another one has replaced does not count."""
    for host in site.hosts:
        if host.problem and (host.state in _THERE or site.state not in _THERE):
            yield f"{_prefix(site, host)}{host.problem}"


def _notes(site: Site, version: str) -> Iterable[str]:
    """Say what differs from other sites."""
    for host in site.hosts:
        prefix = _prefix(site, host)
        if host.state == "silent" and site.state in _THERE:
            yield f"no word from {host.name or host.bridge} for {_duration(host.age_s)}; others are there"
        if host.state == "gone":
            continue
        if host.clock_ahead_s is not None and abs(host.clock_ahead_s) > CLOCK_SKEW_S:
            side = "ahead" if host.clock_ahead_s > 0 else "behind"
            yield f"{prefix}its clock is {_duration(abs(host.clock_ahead_s))} {side}: set it, e.g. with NTP"
        if host.version is not None and host.version != version:
            yield f"{prefix}it has FedKeeper {host.version}, this command {version}"
    if site.clients and site.clients == site.paused:
        yield "all of its clients are paused"


def _prefix(site: Site, host: SiteHost) -> str:
    return f"{host.name or host.bridge}: " if len(site.hosts) > 1 else ""


def _host(word: Word) -> SiteHost:
    presence, ahead_s = word.presence, word.ahead_s
    if ahead_s is not None and abs(ahead_s) > _MAX_SKEW_S:
        ahead_s = None
    host = SiteHost(bridge=presence.bridge, state=state(word), age_s=word.age_s, clock_ahead_s=ahead_s)
    return host if presence.host is None else _with_facts(host, presence.host)


def _with_facts(host: SiteHost, said: Host) -> SiteHost:
    """Add what a bridge says of its machine, as far as it can be believed."""
    return msgspec.structs.replace(
        host,
        name=_short(said.name) or None,
        version=_short(said.version) or None,
        broker=_short(said.broker) or None,
        processor=_short(said.processor) or None,
        device=_short(said.device),
        memory_mb=_amount(said.memory_mb),
        disk_mb=_amount(said.disk_mb),
        problem=_short(said.problem),
    )


def _short(text: str) -> str:
    return texts.cleaned(texts.shortened(text, MAX_TEXT), keep="")


def _amount(mb: int | None) -> int | None:
    return mb if mb is not None and 0 <= mb <= _MAX_MB else None


def state(word: Word) -> State:
    """Return the state of a bridge, by what it last said."""
    presence = word.presence
    # A bridge that can run no task says that it is gone, with the time, and goes on saying it. A goodbye has no time.
    if presence.gone and not presence.clock_s:
        return "gone"
    if word.age_s is None or word.age_s > MISSED * min(presence.every_s, MAX_EVERY_S):
        return "silent"
    return "unable" if presence.gone else "up"


def _machine(word: Word) -> str:
    host = word.presence.host
    return word.presence.bridge if host is None else host.id or host.name


def _rank(host: SiteHost) -> tuple[int, float, str]:
    """The best first, and of several that are not there the one that spoke last."""
    order = _ORDER.index(host.state)
    return order, 0.0 if host.state in _THERE or host.age_s is None else host.age_s, host.name or host.bridge


def _duration(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else format_rough(seconds)
