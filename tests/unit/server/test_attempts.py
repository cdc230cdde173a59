"""A model that ends its process ends its job at the second try; each start is on record before it is tried."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import broker
from broker import topics
from broker.messages import codec
from broker.messages.job_record import JobRecord
from server import attempts
from server.errors import LearningDied, LearningFailed
from server.job_store import JobStore
from tests.support import fakes

STEP = "the construction of the model"


@pytest.fixture
async def store(memory_url: str) -> AsyncIterator[JobStore]:
    async with broker.connect(memory_url) as bus:
        yield JobStore(bus, JobRecord(id="demo", job=fakes.job()), 0)


async def starts(store: JobStore) -> dict[str, int]:
    """What another server would read."""
    value = await store._broker.get(topics.job_record("demo"))
    assert value is not None
    return codec.decode(JobRecord, value.payload).starts


def ending(store: JobStore, *ends: Exception | None) -> Callable[[], Awaitable[dict[str, int]]]:
    """Work that ends so at each try, and returns the starts that are on record while it runs."""
    left = list(ends)

    async def work() -> dict[str, int]:
        on_record = await starts(store)
        end = left.pop(0)
        if end is not None:
            raise end
        return on_record

    return work


async def test_work_that_is_done_at_once_was_started_once(store: JobStore) -> None:
    assert await attempts.run(store, STEP, ending(store, None)) == {STEP: 1}


async def test_one_death_is_followed_by_a_second_try(store: JobStore) -> None:
    work = ending(store, LearningDied("it was killed"), None)
    assert await attempts.run(store, STEP, work) == {STEP: 2}


async def test_the_second_death_fails_the_job_and_is_on_record(store: JobStore) -> None:
    work = ending(store, LearningDied("it ended"), LearningDied("it was killed by signal SIGSEGV (11)"))
    with pytest.raises(LearningFailed, match=r"^it was killed by signal SIGSEGV \(11\); tried 2 times$"):
        await attempts.run(store, STEP, work)
    assert await starts(store) == {STEP: 2}


async def test_a_failure_that_would_come_again_is_not_tried_again(store: JobStore) -> None:
    with pytest.raises(LearningFailed, match=r"^no such model$"):
        await attempts.run(store, STEP, ending(store, LearningFailed("no such model")))
    assert await starts(store) == {STEP: 1}


@pytest.mark.parametrize("before", [1, 4])
async def test_a_server_that_ended_meanwhile_goes_on(store: JobStore, before: int) -> None:
    await store.change(starts={STEP: before})
    assert await attempts.run(store, STEP, ending(store, None)) == {STEP: before + 1}


async def test_a_death_after_that_is_the_models(store: JobStore) -> None:
    await store.change(starts={STEP: 1})
    with pytest.raises(LearningFailed, match="tried 2 times"):
        await attempts.run(store, STEP, ending(store, LearningDied("it ended")))


async def test_a_step_that_ends_the_server_again_and_again_fails_the_job(store: JobStore) -> None:
    await store.change(starts={STEP: attempts.MAX_STARTS})
    with pytest.raises(LearningFailed, match=f"the server ended 5 times while it did this: {STEP}"):
        await attempts.run(store, STEP, ending(store))


async def test_each_step_has_its_own_count(store: JobStore) -> None:
    await store.change(starts={STEP: 4})
    work = ending(store, LearningDied("it ended"), None)
    assert await attempts.run(store, "the evaluation of round 1", work) == {"the evaluation of round 1": 2}


async def test_a_server_counts_a_step_once_however_often_another_one_changes_the_record(store: JobStore) -> None:
    assert await attempts.run(store, STEP, ending(store, None)) == {STEP: 1}
    for _ in range(attempts.MAX_STARTS):
        again = JobStore(store._broker, store.record, store._revision, store.started)
        assert await attempts.run(again, STEP, ending(again, None)) == {STEP: 1}
