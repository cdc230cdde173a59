"""Reads what happened to clients in a job's earlier rounds from its progress events."""

import asyncio
import contextlib
from typing import Final

from broker import topics
from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages import progress
from broker.messages.errors import DecodeError
from broker.messages.job_record import JobRecord
from broker.messages.progress import RoundCompleted, RoundFailed
from broker.support import loggers
from server import selection
from server.selection import History

log = loggers.get_logger(__name__)

QUIET_S: Final = 5.0
"""The log is read when no event has come for so long. Its last event may be missing: the server may have ended before
it announced it, and old events are forgotten."""


async def read(broker: Broker, record: JobRecord) -> History:
    """Return the history of a job that continues.

    Args:
        broker: has the job's progress events.
        record: the job's record.
    """
    ended = record.round - bool(record.cohort)
    history: History = selection.fold({}, record.last) if record.last is not None else {}
    events = topics.progress(record.id, "round", topics.ANY)
    async with broker.subscribe(events, start="first") as deliveries:
        with contextlib.suppress(TimeoutError):
            while ended:
                async with asyncio.timeout(QUIET_S):
                    delivery = await anext(deliveries)
                try:
                    event = progress.decode(await delivery.read()).event
                except (DecodeError, CorruptPayload) as exc:
                    log.warning("unreadable progress event", topic=delivery.topic, error=str(exc))
                    continue
                history = selection.fold(history, event)
                if isinstance(event, RoundCompleted | RoundFailed) and event.round >= ended:
                    break
    return history
