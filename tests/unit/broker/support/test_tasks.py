"""Task groups whose errors reach the caller as they are."""

import asyncio
import itertools

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


async def test_an_error_of_two_nested_groups_leaves_no_cancellation_behind() -> None:
    """The outer group cancels the caller, and the inner group passes that on, because it has an error of its own."""

    async def fail(after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        raise ValueError("of a task")

    async def fail_twice(outer_fails: int, inner_fails: int) -> None:
        async with task_group() as outer:
            outer.create_task(fail(outer_fails), name="fails outside")
            async with task_group() as inner:
                inner.create_task(fail(inner_fails), name="fails inside")
                await asyncio.Event().wait()

    for after in itertools.product(range(1, 5), repeat=2):
        with pytest.raises(ValueError, match="of a task"):
            await fail_twice(*after)
        caller = asyncio.current_task()
        assert caller is not None
        assert caller.cancelling() == 0
        await asyncio.sleep(0)
