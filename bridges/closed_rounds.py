"""Which rounds are over, as the progress topics tell: their tasks need not be started any more."""

import structlog

from broker import topics
from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages import progress
from broker.messages.errors import DecodeError
from broker.messages.progress import FINAL_EVENTS, Progress, RoundCompleted, RoundFailed, RoundOpened

log = structlog.get_logger(__name__)


class ClosedRounds:
    """Follows every job's rounds from now on."""

    def __init__(self) -> None:
        self._over: dict[str, float] = {}

    def contains(self, job: str, round_: int) -> bool:
        """Whether the round is over."""
        return round_ <= self._over.get(job, 0)

    def note(self, said: Progress) -> None:
        """Take over what an event tells."""
        match said.event:
            case RoundOpened(round=round_):
                self._over[said.job] = max(self._over.get(said.job, 0), round_ - 1)
            case RoundCompleted(round=round_) | RoundFailed(round=round_):
                self._over[said.job] = max(self._over.get(said.job, 0), round_)
            case event if isinstance(event, FINAL_EVENTS):
                self._over[said.job] = float("inf")

    async def follow(self, broker: Broker, subject: str) -> None:
        """Listen for ever to one subject of every job's progress: `job` or `round`."""
        every = topics.progress(topics.ANY, subject, topics.ANY)
        async with broker.subscribe(every, start="new") as deliveries:
            async for delivery in deliveries:
                try:
                    self.note(progress.decode(await delivery.read()))
                except (DecodeError, CorruptPayload) as exc:
                    log.warning("unreadable progress event", topic=delivery.topic, error=str(exc))
