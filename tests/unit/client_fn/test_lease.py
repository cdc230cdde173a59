"""A task's lease: checks, timeouts and an early end."""

import asyncio

import pytest

from client_fn.errors import LeaseOver
from client_fn.lease import Lease
from tests.support.tasks import task


def test_there_is_time_until_the_deadline() -> None:
    now = [9.99]
    lease = Lease(task(deadline_s=10.0), lambda: now[0])
    lease.check()
    assert lease.left_s == pytest.approx(0.01)
    now[0] = 10.0
    assert lease.left_s == 0.0
    with pytest.raises(LeaseOver):
        lease.check()


async def test_the_block_is_cancelled_at_the_deadline() -> None:
    with pytest.raises(LeaseOver):
        async with asyncio.timeout(60), Lease(task(deadline_s=10.0), lambda: 9.99).timeout():
            await asyncio.Event().wait()


async def test_a_timeout_error_of_the_block_itself_is_not_mapped() -> None:
    with pytest.raises(TimeoutError, match="ours"):
        async with Lease(task(deadline_s=10.0), lambda: 0.0).timeout():
            raise TimeoutError("ours")


async def test_the_block_does_not_begin_after_the_deadline() -> None:
    begun = False
    with pytest.raises(LeaseOver):
        async with Lease(task(deadline_s=10.0), lambda: 11.0).timeout():
            begun = True
    assert not begun


@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
def test_a_request_says_how_long_it_lasts_so_the_clock_of_this_machine_plays_no_part(skew_s: float) -> None:
    passed = [0.0]
    lease = Lease(task(deadline_s=1010.0, lasts_s=10.0), lambda: 1000.0 + skew_s, lambda: passed[0])
    assert lease.left_s == 10.0
    passed[0] = 9.0
    lease.check()
    passed[0] = 10.0
    with pytest.raises(LeaseOver):
        lease.check()
