"""Receives the reports that functions publish about their tasks."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bridges.errors import InvocationFailed
from bridges.platform import Activation
from broker import topics
from broker.base import Broker
from broker.deliveries import Value
from broker.errors import BrokerError, Disconnected
from broker.messages import codec, origin
from broker.messages.errors import DecodeError
from broker.messages.invocation import Report
from broker.messages.round import RoundTask
from broker.support import loggers

log = loggers.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PlatformDone:
    """The platform sends no more events of a run.

    Attributes:
        failure: why the invocation failed; None: the platform reported no failure.
    """

    failure: InvocationFailed | None = None


RunEvent = Activation | Report | PlatformDone
"""An event of a run: `Activation` and `PlatformDone` come from the platform, `Report` from the function."""


class RunEvents(asyncio.Queue[RunEvent]):
    """The events of one run, in the order of their arrival.

    Args:
        look: looks at the broker for a report that has not arrived; see `look`. None: nothing else can be known.
    """

    def __init__(self, look: Callable[[], Awaitable[bool]] | None = None) -> None:
        super().__init__()
        self._look = look

    async def look(self) -> bool:
        """Add the function's last report if it has not arrived. False: the broker does not answer, so nothing is known.

        Before a silence decides anything it must be one of the function, not of the broker between us.
        """
        return True if self._look is None else await self._look()


class Reports:
    """Receives the reports of one platform's functions.

    Args:
        broker: the connection; functions retain their reports there.
        platform: name of the platform.
    """

    def __init__(self, broker: Broker, platform: str) -> None:
        self._broker = broker
        self._platform = platform
        self._queues: dict[str, RunEvents] = {}
        # The revision of the report that each client's queue got last.
        self._seen: dict[str, int] = {}

    @contextlib.contextmanager
    def queue_for(self, task: RoundTask) -> Iterator[RunEvents]:
        """A queue that receives each new report of a task until the end of the block."""
        queue = self._queues[task.id] = RunEvents(partial(self._look, task))
        try:
            yield queue
        finally:
            del self._queues[task.id]

    async def last(self, task: RoundTask) -> Report | None:
        """The last report of a task; None if its client's function has reported nothing of this task."""
        value = await self._broker.get(topics.report(self._platform, task.client_id))
        report = None if value is None else self._decode(value.topic, value.payload)
        return report if report is not None and report.id == task.id else None

    async def follow(self) -> None:
        """Put each new report into the queue of its task, until cancelled."""
        async with self._broker.watch(topics.report(self._platform, topics.ANY)) as values:
            async for value in values:
                if isinstance(value, Value):
                    self._take(value)

    async def _look(self, task: RoundTask) -> bool:
        """Take a report that has not arrived; False if the broker does not answer."""
        try:
            value = await self._broker.get(topics.report(self._platform, task.client_id))
        except Disconnected as exc:
            log.warning("can't look for a report now", task=task.id, error=str(exc))
            return False
        except BrokerError as exc:
            log.warning("the function's report can't be read", task=task.id, error=str(exc))
            return True
        if value is not None and value.revision != self._seen.get(value.topic):
            self._take(value)
        return True

    def _take(self, value: Value) -> None:
        report = self._decode(value.topic, value.payload)
        if report is not None and report.id in self._queues:
            self._seen[value.topic] = value.revision
            self._queues[report.id].put_nowait(report)

    def _decode(self, topic: str, payload: bytes) -> Report | None:
        """Decode a report; None if it is unreadable, or if it is about the task of another client."""
        try:
            report = codec.decode(Report, payload)
            origin.check_topic(topic, topics.report, self._platform, report.client)
        except DecodeError as exc:
            log.warning("unreadable report", topic=topic, error=str(exc))
            return None
        return report
