"""Evaluates a job's global models, one at a time. The next round may run meanwhile."""

import asyncio
from collections.abc import Callable

from broker.messages import progress
from broker.messages.job import Job
from server import attempts
from server.announcer import Announcer
from server.job_store import JobStore
from server.learning import Learning


class Evaluation:
    """The evaluations of one job.

    Args:
        round_: the last round that is evaluated; 0: none.
        accuracy: the result of that evaluation.
        store: the job's record, which counts the starts.
        learning: evaluates models.
        announcer: publishes the results.
        clock: seconds since the epoch.

    Attributes:
        round: the last round whose evaluation is announced.
        accuracy: its result, 0 to 1; None before the first evaluation.
    """

    def __init__(
        self,
        round_: int,
        accuracy: float | None,
        *,
        store: JobStore,
        learning: Learning,
        announcer: Announcer,
        clock: Callable[[], float],
    ) -> None:
        self.round = round_
        self.accuracy = accuracy
        self._started = round_
        self._store = store
        self._learning = learning
        self._announcer = announcer
        self._clock = clock
        self._lock = asyncio.Lock()
        self._finished = asyncio.Event()

    def is_due(self, job: Job, round_: int, done: int, *, is_last: bool) -> bool:
        """Whether the model of a round is to be evaluated, and its evaluation has not started.

        Args:
            job: says after how many rounds an evaluation is due.
            round_: number of the round.
            done: number of completed rounds.
            is_last: the job has no further round.
        """
        every = job.evaluation.every if job.test_data else 0
        return bool(every) and round_ > self._started and (is_last or done % every == 0)

    async def evaluate(self, job_id: str, job: Job, round_: int, weights: bytes, *, in_background: bool) -> None:
        """Evaluate the model of a round, and announce the result.

        Args:
            job_id: the job's id.
            job: names the model and the dataset.
            round_: number of the round.
            weights: the model, a safetensors file.
            in_background: whether the next round runs meanwhile.

        Raises:
            LearningFailed: the model or the test data can't be used.
        """
        self._started = round_
        async with self._lock:
            started_s = self._clock()
            step = f"the evaluation of round {round_}"
            result = await attempts.run(self._store, step, lambda: self._learning.evaluate(job, weights))
            event = progress.ModelEvaluated(
                round=round_,
                accuracy=result.accuracy,
                loss=result.loss,
                samples=result.samples,
                evaluation_s=self._clock() - started_s,
                background=in_background,
                metrics=dict(result.metrics),
            )
            await self._announcer.announce_and_wait(job_id, event, round_)
            self.round, self.accuracy = round_, result.accuracy
            self._finished.set()

    async def wait(self) -> None:
        """Wait until no evaluation is running. After that, a crash can't lose an evaluation that was started."""
        while self.round < self._started:
            self._finished.clear()
            await self._finished.wait()
