"""Counts on record how often a model was being built or evaluated, so that one that ends its process ends its job."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from server.errors import LearningDied, LearningFailed
from server.job_store import JobStore

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_DEATHS: Final = 2
"""A second try tells a fault of the model from one of the machine."""

MAX_STARTS: Final = 5
"""More starts than deaths are on record if the server itself ended meanwhile, which is seldom the model's fault."""


async def run(store: JobStore, step: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do a step that runs the user's code; once more if it dies. Each start is on record before it is tried.

    Args:
        store: the job's record.
        step: the step, such as `build` or `evaluate 7`; each has its own count.
        work: starts the step.

    Raises:
        LearningFailed: the step failed, died twice, or was started too often.
    """
    deaths = 0
    while True:
        starts = store.record.starts.get(step, 0)
        if starts >= MAX_STARTS:
            raise LearningFailed(f"the server ended {starts} times while it did this: {step}")
        await store.change(starts={step: starts + 1})
        try:
            return await work()
        except LearningDied as exc:
            deaths += 1
            log.warning("the model's process ended", job=store.record.id, step=step, starts=starts + 1, error=str(exc))
            if max(deaths, starts + 1) >= MAX_DEATHS:
                raise LearningFailed(f"{exc}; tried {starts + 1} times") from exc
