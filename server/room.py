"""Waits until the broker has room again. A full broker delays the server and its jobs; it ends neither."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from broker.base import Broker
from broker.errors import StorageFull
from broker.messages import progress
from broker.messages.progress import Progress
from broker.support import loggers

log = loggers.get_logger(__name__)

T = TypeVar("T")

FIRST_S: Final = 1.0
MOST_S: Final = 30.0
"""First and longest delay before the next try. Seconds."""

REMEDY: Final = (
    "delete finished jobs (`fedkeeper jobs rm JOB`), let the server keep fewer (`fedkeeper server --keep-jobs`), or "
    "give the broker more room"
)


async def until_there_is_room(write: Callable[[], Awaitable[T]]) -> T:
    """Do a write of the server; do it again as long as the broker has no room for it.

    Args:
        write: starts the write, which can be repeated.
    """
    attempt = 0
    while True:
        try:
            return await write()
        except StorageFull as exc:
            log.warning("no room; the server tries again", error=str(exc), remedy=REMEDY)
        await asyncio.sleep(delay_s(attempt))
        attempt += 1


async def publish_event(broker: Broker, event: Progress) -> None:
    """Publish an event as soon as there is room.

    Args:
        broker: takes it.
        event: the event.
    """
    topic, content = progress.topic_of(event.job, event.event), progress.encode(event)
    await until_there_is_room(lambda: broker.publish(topic, content, dedupe=event.id))


def delay_s(attempt: int) -> float:
    """Return the delay in seconds before the next try, after `attempt` failures before the last one."""
    return min(MOST_S, FIRST_S * 2.0 ** min(attempt, 16))
