"""What functions themselves say of their tasks: heard from their topics, whatever their platform knows."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from bridges.errors import InvocationFailed
from bridges.platform import Activation
from broker import topics
from broker.base import Broker, Deleted
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import Report
from broker.messages.round import RoundTask

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """The platform has told all it knows of a run.

    Attributes:
        failure: why the run did not come to its end, if it did not.
    """

    failure: InvocationFailed | None = None


Heard = Activation | Report | Ended


class Reports:
    """The reports of one platform's functions, handed to whoever waits for them.

    Args:
        broker: where functions retain their reports.
        platform: whose functions.
    """

    def __init__(self, broker: Broker, platform: str) -> None:
        self._broker = broker
        self._platform = platform
        self._waiting: dict[str, asyncio.Queue[Heard]] = {}

    @contextlib.contextmanager
    def about(self, task_id: str) -> Iterator[asyncio.Queue[Heard]]:
        """A queue of what is reported of a task, until the end of the block."""
        queue: asyncio.Queue[Heard] = asyncio.Queue()
        self._waiting[task_id] = queue
        try:
            yield queue
        finally:
            del self._waiting[task_id]

    async def last(self, task: RoundTask) -> Report | None:
        """What the client's function said last of this very task."""
        found = await self._broker.get(topics.report(self._platform, task.client_id))
        report = None if found is None else _decoded(found.topic, found.payload)
        return report if report is not None and report.id == task.id else None

    async def follow(self) -> None:
        """Listen for ever."""
        async with self._broker.watch(topics.report(self._platform, topics.ANY)) as values:
            async for value in values:
                report = None if isinstance(value, Deleted) else _decoded(value.topic, value.payload)
                if report is not None and report.id in self._waiting:
                    self._waiting[report.id].put_nowait(report)


def _decoded(topic: str, payload: bytes) -> Report | None:
    try:
        return codec.decode(Report, payload)
    except DecodeError as exc:
        log.warning("unreadable report", topic=topic, error=str(exc))
        return None
