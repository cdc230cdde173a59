"""Judges global models, one at a time, while the next round may already be on its way."""

import asyncio
import math
from collections.abc import Callable

from broker.messages import progress
from broker.messages.job import Job
from server.announcer import Announcer
from server.learning import Learning


class Evaluation:
    """A job's evaluations.

    Attributes:
        round: the last round whose model was judged, and that is with the broker.
        accuracy: measured then; None before the first.
    """

    def __init__(
        self, round_: int, accuracy: float | None, learning: Learning, announcer: Announcer, clock: Callable[[], float]
    ) -> None:
        self.round = round_
        self.accuracy = accuracy
        self._started = round_
        self._learning = learning
        self._announcer = announcer
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._settled = asyncio.Event()

    def due(self, job: Job, round_: int, done: int, *, last: bool) -> bool:
        """Whether the model after a round is to be judged and is not yet; `done` counts completed rounds."""
        every = job.evaluation.every
        return bool(every) and round_ > self._started and (last or done % every == 0)

    async def judge(self, job_id: str, job: Job, round_: int, weights: bytes, *, in_background: bool) -> None:
        """Judge the model after a round, and say how good it is.

        Raises:
            LearningFailed: the model or the test data can't be used.
        """
        self._started = round_
        async with self._one_at_a_time:
            started_s = self._clock()
            judged = await asyncio.to_thread(self._learning.judge, job, weights)
            event = progress.ModelEvaluated(
                round=round_,
                accuracy=judged.accuracy,
                loss=judged.loss if math.isfinite(judged.loss) else None,  # JSON has no NaN
                samples=judged.samples,
                evaluation_s=self._clock() - started_s,
                background=in_background,
            )
            await self._announcer.announce_and_wait(job_id, event, round_)
            self.round, self.accuracy = round_, judged.accuracy
            self._settled.set()

    async def settled(self) -> None:
        """Return when no evaluation is under way: a crash can then cost none but the next."""
        while self.round < self._started:
            self._settled.clear()
            await self._settled.wait()
