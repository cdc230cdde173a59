"""Evaluates a job's global models, one at a time, and keeps what was found. The next round may run meanwhile."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal

from broker.messages import progress
from broker.messages.job import Job
from broker.support import loggers
from server import attempts, findings
from server.announcer import Announcer
from server.errors import LearningFailed
from server.findings import Judgement
from server.job_store import JobStore
from server.judging import Judging
from server.learning import Learning
from server.round_facts import model_of

log = loggers.get_logger(__name__)


class Evaluation:
    """The evaluations of one job.

    Args:
        store: the job's record, which has what earlier servers found, and counts the starts.
        learning: evaluates models.
        announcer: publishes the results.
        clock: seconds since the epoch.

    Attributes:
        round: the last round whose evaluation by the server is announced.
        accuracy: its result, 0 to 1; None before the first evaluation.
        found: what all evaluations have found so far.
    """

    def __init__(self, store: JobStore, learning: Learning, announcer: Announcer, clock: Callable[[], float]) -> None:
        self.round = store.record.evaluated
        self.accuracy = store.record.accuracy
        self.found = findings.of(store.record)
        self._started = self.round
        self._store = store
        self._learning = learning
        self._announcer = announcer
        self._clock = clock
        self._lock = asyncio.Lock()
        self._finished = asyncio.Event()

    @property
    def changes(self) -> dict[str, Any]:
        """What was found, as changes of the record. Until they are made, the next server would find it again."""
        return {"evaluated": self.round, "accuracy": self.accuracy, **findings.changes(self.found)}

    def take(self, round_: int, metrics: Mapping[str, float], by: Literal["server", "clients"] = "clients") -> None:
        """Take the result of an evaluation of the newest model. It is on record with the next change.

        Args:
            round_: the round that the model is of; 0: the initial one.
            metrics: what was measured, by metric; finite numbers.
            by: who has evaluated it.
        """
        record = self._store.record
        self.found = findings.after(self.found, record.job, Judgement(round_, model_of(record), metrics, by))

    async def score(self, judging: Judging, *, in_background: bool) -> None:
        """Compute what the clients' sums come to for the newest model, announce it, and take it.

        Sums that can't be scored, perhaps because a client has made them up, are announced with the reason: they do not
        end the job.

        Args:
            judging: the clients' answers.
            in_background: whether clients trained meanwhile.
        """
        record = self._store.record
        round_ = 0 if record.last is None else record.last.round
        metrics: dict[str, float] = {}
        reason = "" if judging.clients else "no client has held-out data, or their functions are older than this server"
        if judging.clients:
            step, totals = f"the score of the clients' sums of round {round_}", judging.totals.totals()
            try:
                metrics = await attempts.run(self._store, step, lambda: self._learning.score(record.job, totals))
            except LearningFailed as exc:
                log.warning("the clients' sums can't be scored", job=record.id, round=round_, error=str(exc))
                reason = f"the clients' sums can't be scored: {exc}"
        event = judging.event(record.job, round_, metrics, background=in_background, reason=reason)
        await self._announcer.announce_and_wait(record.id, event, round_, "clients")
        if not reason:
            self.take(round_, metrics)

    def is_due(self, job: Job, round_: int, done: int, *, is_last: bool) -> bool:
        """Whether the model of a round is to be evaluated, and its evaluation has not started.

        Args:
            job: says after how many rounds an evaluation is due.
            round_: number of the round.
            done: number of completed rounds.
            is_last: the job has no further round.
        """
        every = job.evaluation.every
        return bool(job.test_data) and round_ > self._started and (is_last or done % every == 0)

    async def evaluate(self, job_id: str, job: Job, round_: int, weights: bytes, *, in_background: bool) -> None:
        """Evaluate the model of a round, and announce the result.

        Args:
            job_id: the job's id.
            job: names the model and the test set.
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
            metrics = result.finite
            event = progress.ModelEvaluated(
                round=round_,
                accuracy=metrics.get("accuracy"),
                loss=metrics.get("loss"),
                samples=result.samples,
                evaluation_s=self._clock() - started_s,
                background=in_background,
                metrics=metrics,
            )
            await self._announcer.announce_and_wait(job_id, event, round_)
            self.round, self.accuracy = round_, event.accuracy
            self.take(round_, metrics, "server")
            self._finished.set()

    async def wait(self) -> None:
        """Wait until no evaluation is running. After that, a crash can't lose an evaluation that was started."""
        while self.round < self._started:
            self._finished.clear()
            await self._finished.wait()
