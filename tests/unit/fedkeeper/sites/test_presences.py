"""How long ago a bridge spoke is told from the broker's clock; where clocks do not tell it, the bridges are heard."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.deliveries import Value
from broker.messages import codec
from broker.messages.register import Presence
from broker.support.tasks import task_group
from fedkeeper.sites import presences
from fedkeeper.sites.presences import Stored

NOW_S = 1_000_000.0


def said(platform: str = "board-1", *, clock_s: float = 0.0, gone: bool = False) -> Presence:
    return Presence(bridge=platform, platform=platform, every_s=5.0, clock_s=clock_s, gone=gone)


def value(presence: Presence, *, topic: str = "", time_s: float | None = NOW_S) -> Value:
    topic = topic or topics.presence(presence.platform, presence.bridge)
    return Value(topic, codec.encode(presence), 1, time_s)


def age_and_skew(stored: Stored, *others: Stored, now_s: float = NOW_S) -> tuple[float | None, float | None]:
    named = {"t": stored} | {f"other-{number}": other for number, other in enumerate(others)}
    word = presences.words(named, now_s)["t"]
    return word.age_s, word.ahead_s


def test_a_word_on_another_ones_topic_and_an_unreadable_one_are_not_believed() -> None:
    good = value(said())
    foreign = value(said(), topic=topics.presence("board-2", "board-1"))
    broken = Value(topics.presence("board-3", "b"), b"\x00{", 1, NOW_S)
    assert list(presences.decoded([foreign, good, broken])) == [good.topic]


def test_the_brokers_clock_tells_age_and_skew() -> None:
    assert age_and_skew(Stored(said(clock_s=NOW_S - 40), NOW_S - 30)) == (30, -10)
    assert age_and_skew(Stored(said(), NOW_S - 30)) == (30, None)
    assert age_and_skew(Stored(said(gone=True), NOW_S - 30)) == (30, None)


def test_a_clock_of_this_machine_that_is_behind_the_brokers_does_not_make_old_words_new() -> None:
    assert age_and_skew(Stored(said(), NOW_S - 3600), Stored(said("b"), NOW_S + 60), now_s=NOW_S) == (3660, None)


def test_what_was_heard_tells_how_far_the_brokers_clock_is_ahead() -> None:
    heard = Stored(said("b"), NOW_S - 600, heard_s=NOW_S - 1)
    assert age_and_skew(Stored(said(), NOW_S - 660), heard) == (61, None)


def test_without_the_brokers_time_the_bridges_clock_tells_the_age_unless_it_is_ahead() -> None:
    assert age_and_skew(Stored(said(clock_s=NOW_S - 7))) == (7, None)
    assert age_and_skew(Stored(said(clock_s=NOW_S + 1))) == (0, None)
    assert age_and_skew(Stored(said(clock_s=NOW_S + 60))) == (None, None)
    assert age_and_skew(Stored(said())) == (None, None)
    assert age_and_skew(Stored(said(clock_s=NOW_S + 60), heard_s=NOW_S - 2)) == (2, 62)


@pytest.mark.parametrize(
    ("stored", "doubtful"),
    [
        ({}, set()),
        ({"a": Stored(said(), NOW_S)}, set()),
        ({"a": Stored(said(), NOW_S), "b": Stored(said(), NOW_S - 99)}, set()),
        # No bridge is up: perhaps this machine's clock is wrong.
        ({"a": Stored(said(), NOW_S - 50), "b": Stored(said(), NOW_S - 99), "c": Stored(said(gone=True))}, {"a", "b"}),
        # Without the broker's time, a bridge whose clock is wrong may be up.
        ({"a": Stored(said(clock_s=NOW_S)), "b": Stored(said(clock_s=1.0)), "c": Stored(said())}, {"b", "c"}),
    ],
)
def test_a_bridge_is_in_doubt_if_clocks_do_not_tell_that_it_is_up(
    stored: dict[str, Stored], doubtful: set[str]
) -> None:
    assert presences.doubts(stored, NOW_S) == doubtful


@pytest.fixture
async def bus() -> AsyncIterator[Broker]:
    async with asyncio.timeout(120), broker.connect("memory://presences") as bus:
        yield bus


async def announce(bus: Broker, presence: Presence) -> None:
    await bus.put(topics.presence(presence.platform, presence.bridge), codec.encode(presence))


async def test_bridges_are_heard_where_this_machines_clock_is_wrong(bus: Broker) -> None:
    await announce(bus, said("left", gone=True))
    await announce(bus, said("alive"))

    async def speak() -> None:
        for number in itertools.count(1):
            await announce(bus, said("alive", clock_s=time.time() + number))
            await asyncio.sleep(0)

    async with task_group() as group:
        speaking = group.create_task(speak(), name="speak")
        words = await presences.read(bus, listen_s=60.0, clock=lambda: time.time() + 3600)
        speaking.cancel()
    ages_s = {word.presence.platform: word.age_s for word in words}
    assert set(ages_s) == {"left", "alive"}
    # The one that was heard tells the broker's time, and with it when the other one left.
    assert all(age_s is not None and age_s < 3000 for age_s in ages_s.values())


async def test_a_bridge_that_says_nothing_is_silent(bus: Broker) -> None:
    await announce(bus, said())
    (word,) = await presences.read(bus, listen_s=0.01, clock=lambda: time.time() + 3600)
    assert word.age_s is not None
    assert word.age_s > 3000


async def test_nobody_is_waited_for_where_clocks_tell_enough(bus: Broker) -> None:
    await announce(bus, said(clock_s=time.time()))
    (word,) = await presences.read(bus, listen_s=3600.0)
    assert word.age_s is not None
    assert word.age_s < 3000
    assert word.ahead_s is not None
