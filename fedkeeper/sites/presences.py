"""Reads what the bridges last said, how long ago that was, and what their clocks said then."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from broker import topics
from broker.base import Broker
from broker.deliveries import Value
from broker.messages import codec, origin
from broker.messages.errors import DecodeError
from broker.messages.register import CLOCK_SKEW_S, Presence
from broker.support import loggers
from fedkeeper.sites import site_list
from fedkeeper.sites.site_list import Word

log = loggers.get_logger(__name__)

LISTEN_S: Final = 7.0
"""How long bridges are listened to whose last word may be old or new: they announce themselves every 5 s."""

ALL: Final = topics.presence(topics.ANY, topics.ANY)


class Stored(NamedTuple):
    """An announcement as the broker has it.

    Attributes:
        presence: the announcement.
        time_s: when the broker stored it, in seconds since the epoch on its clock; None: it does not say (MQTT).
        heard_s: when it came, in seconds since the epoch on this machine's clock; None: it was there before.
    """

    presence: Presence
    time_s: float | None = None
    heard_s: float | None = None


async def read(broker: Broker, *, listen_s: float = LISTEN_S, clock: Callable[[], float] = time.time) -> list[Word]:
    """Return what each bridge last said. Where clocks do not tell how long ago that was, listen for a new word.

    Args:
        broker: keeps the announcements.
        listen_s: how long to listen at most, in seconds.
        clock: returns seconds since the epoch.
    """
    stored = decoded((await broker.snapshot(ALL)).values())
    if doubtful := doubts(stored, clock()):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(listen_s):
                await _listen(broker, stored, doubtful, clock)
    return list(words(stored, clock()).values())


def decoded(values: Iterable[Value]) -> dict[str, Stored]:
    """Return the announcements that can be read and believed, by topic. The others are logged."""
    found: dict[str, Stored] = {}
    for value in values:
        try:
            presence = codec.decode(Presence, value.payload)
            origin.check_topic(value.topic, topics.presence, presence.platform, presence.bridge)
        except DecodeError as exc:
            log.warning("unreadable presence", topic=value.topic, error=str(exc))
        else:
            found[value.topic] = Stored(presence, value.time_s)
    return found


def doubts(stored: Mapping[str, Stored], now_s: float) -> set[str]:
    """Return the topics of the bridges of which clocks do not tell whether they are up.

    Args:
        stored: the announcements, by topic.
        now_s: the time now, in seconds since the epoch.
    """
    states = {topic: site_list.state(word) for topic, word in words(stored, now_s).items()}
    here = {topic for topic, state in states.items() if state != "gone"}
    silent = {topic for topic in here if states[topic] == "silent"}
    # Where no bridge at all seems to be there, the clock of this machine may be the wrong one.
    return silent if silent == here else {topic for topic in silent if stored[topic].time_s is None}


async def _listen(broker: Broker, stored: dict[str, Stored], doubtful: set[str], clock: Callable[[], float]) -> None:
    """Take in what bridges say, until each of the doubtful ones has spoken."""
    seen: set[str] = set()
    async with broker.watch(ALL) as values:
        async for value in values:
            for topic, new in decoded([value] if isinstance(value, Value) else []).items():
                # A watch begins with what was there.
                if topic in seen or (topic in stored and new.presence != stored[topic].presence):
                    stored[topic] = new._replace(heard_s=clock())
                    doubtful.discard(topic)
                seen.add(topic)
            if not doubtful:
                return


def words(stored: Mapping[str, Stored], now_s: float) -> dict[str, Word]:
    """Return what each bridge last said, by topic.

    Args:
        stored: the announcements, by topic.
        now_s: the time now, in seconds since the epoch.
    """
    on_broker_s = now_s + _broker_ahead_s(stored.values(), now_s)
    return {topic: _word(each, now_s, on_broker_s) for topic, each in stored.items()}


def _broker_ahead_s(stored: Iterable[Stored], now_s: float) -> float:
    """By how many seconds the broker's clock is ahead of this machine's, as far as the announcements tell."""
    timed = [(each.time_s, each.heard_s) for each in stored if each.time_s is not None]
    heard = [time_s - heard_s for time_s, heard_s in timed if heard_s is not None]
    # Nothing was stored in the future.
    return max(heard) if heard else max([0.0, *(time_s - now_s for time_s, _ in timed)])


def _word(stored: Stored, now_s: float, on_broker_s: float) -> Word:
    presence, time_s, heard_s = stored
    clock_s = presence.clock_s  # 0 in a goodbye
    then_s = heard_s if time_s is None else time_s
    if then_s is None:
        # The bridge's own clock is all that there is. One that is ahead tells nothing.
        age_s = now_s - clock_s
        return Word(presence, max(0.0, age_s) if clock_s and age_s > -CLOCK_SKEW_S else None, None)
    age_s = on_broker_s - then_s if heard_s is None else now_s - heard_s
    return Word(presence, max(0.0, age_s), clock_s - then_s if clock_s else None)
