"""Which rounds are over, according to the progress topics. A task of such a round is not started."""

from broker import topics
from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages import progress
from broker.messages.errors import DecodeError
from broker.messages.progress import (
    FINAL_EVENTS,
    JobAccepted,
    JobStarted,
    Progress,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
)
from broker.support import loggers

log = loggers.get_logger(__name__)


class ClosedRounds:
    """The closed rounds of every job, as far as progress events have told since the start.

    The newest event counts, also where it takes an older one back: a broker that lost its last second makes the server
    open earlier rounds again, or go on with a job that had ended.
    """

    def __init__(self) -> None:
        self._last_closed: dict[str, int] = {}
        self._ended: set[str] = set()

    def contains(self, job: str, round_: int) -> bool:
        """Whether a round is over.

        Args:
            job: id of the job.
            round_: number of the round, from 1.
        """
        return job in self._ended or round_ <= self._last_closed.get(job, 0)

    def note(self, event: Progress) -> None:
        """Take over what a progress event says of its job's rounds."""
        job = event.job
        match event.event:
            case JobAccepted() | JobStarted():
                self._ended.discard(job)
                self._last_closed.pop(job, None)
            case RoundOpened(round=round_):
                self._ended.discard(job)
                self._last_closed[job] = round_ - 1
            case RoundCompleted(round=round_) | RoundFailed(round=round_):
                # Does not take an end back: rounds and jobs are two subscriptions, and the end may be read first.
                self._last_closed[job] = round_
            case end if isinstance(end, FINAL_EVENTS):
                self._ended.add(job)

    async def follow(self, broker: Broker, subject: str) -> None:
        """Follow the progress events of every job on one subject, until cancelled.

        Args:
            broker: the connection.
            subject: `job` or `round`.
        """
        topic_filter = topics.progress(topics.ANY, subject, topics.ANY)
        async with broker.subscribe(topic_filter, start="new") as deliveries:
            async for delivery in deliveries:
                try:
                    self.note(progress.decode(await delivery.read()))
                except (DecodeError, CorruptPayload) as exc:
                    log.warning("unreadable progress event", topic=delivery.topic, error=str(exc))
