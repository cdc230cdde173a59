"""A task's time: checked in between, and never overrun by what waits."""

import asyncio

import pytest

from client_fn.errors import LeaseOver
from client_fn.lease import Lease
from tests.support.tasks import task


def test_there_is_time_until_the_deadline() -> None:
    now = [9.99]
    lease = Lease(task(deadline_s=10.0), lambda: now[0])
    lease.check()
    now[0] = 10.0
    with pytest.raises(LeaseOver):
        lease.check()


def test_a_task_that_nobody_waits_for_any_more_has_no_time_left() -> None:
    lease = Lease(task(deadline_s=10.0), lambda: 0.0)
    lease.end()
    with pytest.raises(LeaseOver):
        lease.check()


async def test_what_waits_is_cancelled_at_the_deadline() -> None:
    with pytest.raises(LeaseOver):
        async with asyncio.timeout(60), Lease(task(deadline_s=10.0), lambda: 9.99).timeout():
            await asyncio.Event().wait()


async def test_a_timeout_of_the_body_s_own_comes_out_as_it_is() -> None:
    with pytest.raises(TimeoutError, match="ours"):
        async with Lease(task(deadline_s=10.0), lambda: 0.0).timeout():
            raise TimeoutError("ours")


async def test_nothing_is_begun_when_the_time_is_over() -> None:
    begun = False
    with pytest.raises(LeaseOver):
        async with Lease(task(deadline_s=10.0), lambda: 11.0).timeout():
            begun = True
    assert not begun
