"""Updates are read again from the log and reduced element by element: the same bytes in any order, bounded memory."""

import tracemalloc

import numpy as np
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages.job_record import Member
from broker.messages.round import token
from broker.messages.tensors import Array, Tensors
from broker.messages.update import UpdateHeader
from server import aggregator, replay
from server.gate import Expectation
from tests.support import fakes

BASE: Tensors = {"w": np.ones((3, 50_000), np.float32), "b": np.zeros((), np.float32), "n": np.array(3, np.int64)}
NAMES = ("w", "b")


def expectation(clients: int) -> Expectation:
    members = {f"c-{i:02d}": Member(f"c-{i:02d}", "fake", "", "", 0) for i in range(clients)}
    plan = aggregator.plan(BASE, frozenset(), 10_000)
    return Expectation("demo", 1, "ab" * 32, "nonce", members, plan, 100, BASE, "delta")


async def store(bus: Broker, count: int) -> tuple[dict[str, UpdateHeader], list[Tensors]]:
    """Put updates of clients into the log, the last client's first."""
    rng, headers, changes = np.random.default_rng(1), dict[str, UpdateHeader](), list[Tensors]()
    for i in reversed(range(count)):
        change = {
            name: np.asarray(rng.normal(size=base.shape).astype(base.dtype) if name in NAMES else base)
            for name, base in BASE.items()
        }
        header = UpdateHeader(
            job="demo",
            round=1,
            attempt=1,
            client=f"c-{i:02d}",
            samples=5,
            base="ab" * 32,
            token=token("nonce", f"c-{i:02d}"),
            update="delta",
        )
        await bus.publish(topics.update("demo", 1, header.client, 1), fakes.update(change, header))
        headers[header.client] = header
        changes.insert(0, change)
    return headers, changes


def middle(values: Array) -> Array:
    return np.median(values, axis=0)


async def test_every_element_is_reduced_over_the_updates_sorted_by_client() -> None:
    seen: list[Array] = []

    def first(values: Array) -> Array:
        seen.append(values)
        return np.asarray(values[0].astype(np.float64))

    async with broker.connect("memory://replay") as bus:
        headers, changes = await store(bus, 5)
        medians = await replay.reduce_updates(bus, headers, expectation(5), NAMES, middle)
        firsts = await replay.reduce_updates(bus, headers, expectation(5), NAMES, first)
    for name in NAMES:
        exact = np.median(np.stack([change[name].astype(np.float64) for change in changes]), axis=0)
        assert medians[name].shape == BASE[name].shape
        assert np.abs(medians[name] - exact).max() < 1e-7
        assert np.abs(firsts[name] - changes[0][name]).max() < 1e-7
    assert max(values.size for values in seen) <= replay.BLOCK_VALUES


async def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    async def peak(count: int) -> int:
        async with broker.connect(f"memory://replay-{count}") as bus:
            headers, _ = await store(bus, count)
            tracemalloc.start()
            try:
                await replay.reduce_updates(bus, headers, expectation(count), NAMES, lambda values: values[0] * 1.0)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    # 40 updates have 24 MB, and as float64 twice as much.
    assert await peak(40) < 1.2 * await peak(10) < 24_000_000


async def test_an_update_that_the_log_has_lost_is_named() -> None:
    async with broker.connect("memory://replay-lost") as bus:
        headers, _ = await store(bus, 2)
        await bus.purge(topics.update("demo", 1, "c-01", 1))
        with pytest.raises(CorruptPayload, match=r"fl\.updates\.demo\.1\.c-01\.1.*no longer"):
            await replay.reduce_updates(bus, headers, expectation(2), NAMES, middle)
