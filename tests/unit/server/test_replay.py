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
from broker.messages.update_forms import UpdateForm
from server import aggregator, codecs, replay
from server.gate import Expectation
from server.replay import Update
from server.strategies.robust import Middle
from tests.support import fakes
from tests.support.rounded import rounded

BASE: Tensors = {"w": np.ones((3, 50_000), np.float32), "b": np.zeros((), np.float32), "n": np.array(3, np.int64)}
NAMES = ("w", "b")


def expectation(clients: int, form: UpdateForm = "delta") -> Expectation:
    members = {f"c-{i:02d}": Member(f"c-{i:02d}", "fake", "", "", 0) for i in range(clients)}
    plan = aggregator.plan(BASE, frozenset(), 10_000)
    codec = codecs.of(form, plan.layout, NAMES)
    return Expectation("demo", 1, "ab" * 32, "nonce", members, plan, 100, BASE, "delta", codec)


async def store(bus: Broker, count: int, form: UpdateForm = "delta") -> tuple[list[Update], list[Tensors]]:
    """Put updates of clients into the log, the last client's first."""
    rng, updates, changes = np.random.default_rng(1), list[Update](), list[Tensors]()
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
            update=form,
        )
        await bus.publish(
            topics.update("demo", 1, header.client, 1), fakes.update(rounded(change, NAMES, form), header)
        )
        updates.insert(0, Update(header, {}))
        changes.insert(0, change)
    return updates, changes


class First:
    """Takes the first update, and keeps what it has seen."""

    def __init__(self, *, needs_look: bool = False) -> None:
        self.needs_look = needs_look
        self.seen: list[Array] = []
        self.looked: list[Array] = []

    def look(self, changes: Array) -> None:
        self.looked.append(changes)

    def reduce(self, values: Array) -> Array:
        self.seen.append(values)
        return np.asarray(values[0].astype(np.float64))


async def test_every_element_is_reduced_over_the_updates_sorted_by_client() -> None:
    first = First()
    async with broker.connect("memory://replay") as bus:
        updates, changes = await store(bus, 5)
        medians = await replay.reduce_updates(bus, updates, expectation(5), NAMES, Middle())
        firsts = await replay.reduce_updates(bus, updates, expectation(5), NAMES, first)
    for name in NAMES:
        exact = np.median(np.stack([change[name].astype(np.float64) for change in changes]), axis=0)
        assert medians[name].shape == BASE[name].shape
        assert np.abs(medians[name] - exact).max() < 1e-7
        assert np.abs(firsts[name] - changes[0][name]).max() < 1e-7
    assert max(values.size for values in first.seen) <= replay.BLOCK_VALUES


@pytest.mark.parametrize(("form", "error"), [("bf16", 2.0**-8), ("fp16", 2.0**-11), ("int8", 1 / 127)])
async def test_updates_in_fewer_bits_are_read_again_as_they_were_counted(form: UpdateForm, error: float) -> None:
    async with broker.connect(f"memory://replay-{form}") as bus:
        updates, changes = await store(bus, 5, form)
        medians = await replay.reduce_updates(bus, updates, expectation(5, form), NAMES, Middle())
    for name in NAMES:
        sent = np.stack([change[name].astype(np.float64) for change in changes])
        off = np.abs(medians[name] - np.median(sent, axis=0)).max()
        assert 0 < off <= error * np.abs(sent).max()


async def test_each_update_is_multiplied_by_its_factors_and_all_is_looked_at_before_anything_is_reduced() -> None:
    first = First(needs_look=True)
    async with broker.connect("memory://replay-factors") as bus:
        updates, changes = await store(bus, 3)
        updates[0] = updates[0]._replace(factors={"w": 0.25})
        reduced = await replay.reduce_updates(bus, updates, expectation(3), NAMES, first)
    assert np.abs(reduced["w"] - 0.25 * changes[0]["w"].astype(np.float64)).max() < 1e-7
    assert np.abs(reduced["b"] - changes[0]["b"]).max() < 1e-7
    looked = np.concatenate([block[:, 0] for block in first.looked])
    assert len(first.looked) == len(first.seen)
    assert looked[0] == 0.25 * float(changes[0]["w"].reshape(-1)[0])
    assert looked[1] == float(changes[1]["w"].reshape(-1)[0])


async def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    async def peak(count: int) -> int:
        async with broker.connect(f"memory://replay-{count}") as bus:
            updates, _ = await store(bus, count)
            tracemalloc.start()
            try:
                await replay.reduce_updates(bus, updates, expectation(count), NAMES, Middle())
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    # 40 updates have 24 MB, and as float64 twice as much.
    assert await peak(40) < 1.2 * await peak(10) < 24_000_000


async def test_an_update_that_the_log_has_lost_is_named() -> None:
    async with broker.connect("memory://replay-lost") as bus:
        updates, _ = await store(bus, 2)
        await bus.purge(topics.update("demo", 1, "c-01", 1))
        with pytest.raises(CorruptPayload, match=r"fl\.updates\.demo\.1\.c-01\.1.*no longer"):
            await replay.reduce_updates(bus, updates, expectation(2), NAMES, Middle())
