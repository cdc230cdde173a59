"""Counts on record how often a model was being built or evaluated, so that one that ends its process ends its job."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from broker.support import loggers
from server.errors import LearningDied, LearningFailed
from server.job_store import JobStore

log = loggers.get_logger(__name__)

T = TypeVar("T")

MAX_DEATHS: Final = 2
"""A second try tells a fault of the model from one of the machine. A start whose end no server saw counts too."""

MAX_STARTS: Final = 5
"""So often a step may be started without a death that a server saw: the server itself ended, seldom for the model."""


async def run(store: JobStore, step: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do a step that runs the user's code; once more if it dies. Each start is on record before it is tried.

    A server that starts a step again because another one has changed the record does not count that: its process has
    not ended. Otherwise two servers would change the record in turns, and none would get on.

    Args:
        store: the job's record.
        step: the step, such as `the evaluation of round 7`; each has its own count.
        work: starts the step.

    Raises:
        LearningFailed: the step failed, died twice, or was started too often.
    """
    while True:
        starts = store.record.starts.get(step, 0)
        if step not in store.started:
            if starts >= MAX_STARTS:
                raise LearningFailed(f"the server ended {starts} times while it did this: {step}")
            starts += 1
            await store.change(starts={step: starts})
            store.started.add(step)
        try:
            return await work()
        except LearningDied as exc:
            log.warning("the model's process ended", job=store.record.id, step=step, starts=starts, error=str(exc))
            if starts >= MAX_DEATHS:
                raise LearningFailed(f"{exc}; tried {starts} times") from exc
            store.started.discard(step)
