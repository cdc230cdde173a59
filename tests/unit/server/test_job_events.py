"""The log comes before the clock; and a cancellation ends the step that a job waits for."""

import asyncio
import math

import pytest

from server.errors import JobCancelled, LearningFailed
from server.job_events import JobEvents, RegisterChanged
from server.registry import Registry
from tests.support import fakes


@pytest.fixture
def events() -> JobEvents:
    return JobEvents(lambda: 0.0)


class Step:
    """A step that ends only when it is cancelled, and not at once even then."""

    def __init__(self) -> None:
        self.begun, self.has_ended = asyncio.Event(), False

    async def run(self) -> None:
        try:
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            self.has_ended = True


def others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_the_result_of_a_step_is_returned(events: JobEvents) -> None:
    assert await events.unless_cancelled(asyncio.sleep(0, "built")) == "built"
    assert not others()


async def test_the_error_of_a_step_is_raised(events: JobEvents) -> None:
    async def fails() -> None:
        raise LearningFailed("no such model")

    with pytest.raises(LearningFailed, match="no such model"):
        await events.unless_cancelled(fails())
    assert not others()


async def test_a_cancellation_ends_the_step_first_and_then_raises(events: JobEvents) -> None:
    step = Step()
    waiting = asyncio.create_task(events.unless_cancelled(step.run()))
    await step.begun.wait()
    events._cancelled.set()
    with pytest.raises(JobCancelled):
        await waiting
    assert step.has_ended
    assert not others()


async def test_an_earlier_cancellation_counts(events: JobEvents) -> None:
    step = Step()
    events._cancelled.set()
    with pytest.raises(JobCancelled):
        await events.unless_cancelled(step.run())
    assert step.has_ended or not step.begun.is_set()


async def test_the_servers_end_ends_the_step_too(events: JobEvents) -> None:
    step = Step()
    waiting = asyncio.create_task(events.unless_cancelled(step.run()))
    await step.begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert step.has_ended
    assert not others()


async def test_an_error_of_a_step_that_is_being_cancelled_is_not_reported_as_forgotten(
    events: JobEvents, recwarn: pytest.WarningsRecorder
) -> None:
    forgotten: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: forgotten.append(context))
    begun = asyncio.Event()

    async def fails_at_the_end() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            raise LearningFailed("too late")

    waiting = asyncio.create_task(events.unless_cancelled(fails_at_the_end()))
    await begun.wait()
    events._cancelled.set()
    with pytest.raises(JobCancelled):
        await waiting
    del waiting
    await asyncio.sleep(0)
    assert not forgotten
    assert not recwarn.list


async def test_changes_of_the_register_that_come_together_are_one_event(events: JobEvents) -> None:
    registry = Registry()
    async with fakes.running(events._read_changes(registry, RegisterChanged(), gather_s=3600.0)):
        for _ in range(100):
            await asyncio.sleep(0)
            registry.mark_changed()
        assert isinstance(await events.next(math.inf), RegisterChanged)
        assert events._queue.empty()
