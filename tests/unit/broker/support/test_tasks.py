"""Task groups whose errors reach the caller as they are."""

import asyncio

import pytest

from broker.support.tasks import task_group


async def test_the_first_error_is_raised_itself() -> None:
    async def fail() -> None:
        raise ValueError("of a task")

    with pytest.raises(ValueError, match="of a task"):
        async with task_group() as group:
            group.create_task(fail(), name="fails")


async def test_an_error_of_the_block_ends_its_tasks() -> None:
    tasks: list[asyncio.Task[object]] = []

    async def fail() -> None:
        async with task_group() as group:
            tasks.append(group.create_task(asyncio.Event().wait(), name="waits"))
            await asyncio.sleep(0)
            raise KeyError("of the block")

    with pytest.raises(KeyError):
        await fail()
    assert tasks[0].cancelled()


async def test_an_error_after_the_block_leaves_no_cancellation_behind() -> None:
    """A stale one would turn the next timeout of the caller into a cancellation."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("of a task")

    with pytest.raises(ValueError, match="of a task"):
        async with task_group() as group:
            group.create_task(fail(), name="fails")
    caller = asyncio.current_task()
    assert caller is not None
    assert caller.cancelling() == 0


async def test_a_cancellation_is_not_lost_behind_an_error() -> None:
    """Otherwise a caller that handles the error and continues would never end."""
    handled = asyncio.Event()

    async def fail_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("of a task that is ended") from None

    async def go_on() -> None:
        try:
            async with task_group() as group:
                group.create_task(fail_when_cancelled(), name="fails")
        except ValueError:
            handled.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(go_on(), name="goes on")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=30)
    if not done:
        task.cancel()
    assert handled.is_set()
    assert done, "the cancellation was lost"
    assert task.cancelled()


async def test_two_nested_groups_that_fail_at_once_leave_no_cancellation_behind() -> None:
    """As a connection and its subscription do when the store has changed."""

    async def fail(message: str) -> None:
        raise ValueError(message)

    async def fail_twice() -> None:
        async with task_group() as outer, task_group() as inner:
            outer.create_task(fail("of the outer group"), name="outer")
            inner.create_task(fail("of the inner group"), name="inner")
            await asyncio.Event().wait()

    with pytest.raises(ValueError, match="of the outer group"):
        await fail_twice()
    await asyncio.sleep(0)
    caller = asyncio.current_task()
    assert caller is not None
    assert caller.cancelling() == 0
