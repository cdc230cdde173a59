"""Reduces a round's counted updates element by element, for strategies that must see them all at once.

The updates are read again from the log, sorted by client, so every server gets the same bytes, also after a crash. They
are spooled to a temporary file, and reduced block by block: memory does not grow with the number of clients.
"""

import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from broker import topics
from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages.tensors import DTYPES, Array, Tensors
from broker.messages.update import UpdateHeader
from server import gate, values
from server.aggregator import Plan
from server.gate import Expectation
from server.strategies.base import Reduction
from server.values import Values

BLOCK_VALUES: Final = 1 << 19
"""Values of all updates per block, 4 MB as float64: memory is the same for 10 and 1,000 updates."""


class Update(NamedTuple):
    """A counted update.

    Attributes:
        header: its metadata.
        factors: what its tensors are multiplied by, by name; tensors with 1 are left out.
    """

    header: UpdateHeader
    factors: Mapping[str, float]


async def reduce_updates(
    broker: Broker,
    updates: Sequence[Update],
    expectation: Expectation,
    names: tuple[str, ...],
    reduction: Reduction,
) -> Tensors:
    """Return the reduced tensors, float64, in the updates' form.

    Args:
        broker: has the log.
        updates: the counted updates, sorted by client id.
        expectation: what the round expects of an update.
        names: the float tensors to reduce.
        reduction: reduces each block.

    Raises:
        CorruptPayload: an update is in the log no longer.
    """
    plan = expectation.plan
    with tempfile.TemporaryDirectory(prefix="fedkeeper-replay-") as folder:
        spool = {name: _open(Path(folder) / f"{i}", name, plan, len(updates)) for i, name in enumerate(names)}
        for row, update in enumerate(updates):
            tensors = await _read(broker, update.header, expectation)
            for name in names:
                values.copy(tensors[name], spool[name][row])
        factors = {name: np.array([update.factors.get(name, 1.0) for update in updates]) for name in names}
        return await asyncio.to_thread(_reduce_all, spool, factors, plan, reduction)


def _open(path: Path, name: str, plan: Plan, rows: int) -> Array:
    dtype, shape = plan.layout[name]
    return np.memmap(path, DTYPES[dtype], "w+", shape=(rows, max(1, int(np.prod(shape)))))


async def _read(broker: Broker, header: UpdateHeader, expectation: Expectation) -> Mapping[str, Values]:
    topic = topics.update(header.job, header.round, header.client, header.attempt)
    value = await broker.get(topic)
    if value is None:
        raise CorruptPayload(topic, "it is in the log no longer")
    return gate.check(value.payload, gate.parse_topic(topic), expectation).tensors


def _reduce_all(spool: Tensors, factors: Tensors, plan: Plan, reduction: Reduction) -> Tensors:
    if reduction.needs_look:
        for name, rows in spool.items():
            for _, block in _blocks(rows, factors[name]):
                reduction.look(block)
    return {name: _reduce(rows, factors[name], name, plan, reduction) for name, rows in spool.items()}


def _reduce(rows: Array, factors: Array, name: str, plan: Plan, reduction: Reduction) -> Array:
    """Reduce one tensor in fixed point: the order of numbers that differ only by rounding must not matter."""
    scale = 2.0 ** plan.shifts[name]
    reduced = np.empty(rows.shape[1], np.float64)
    for where, block in _blocks(rows, factors * scale):
        fixed = np.rint(block, out=block).astype(np.int64)
        reduced[where] = reduction.reduce(fixed) / scale
    return reduced.reshape(plan.layout[name][1])


def _blocks(rows: Array, factors: Array) -> Iterator[tuple[slice, Array]]:
    """Yield parts of all rows as float64, each row multiplied by its factor, and where they are."""
    length = max(1, BLOCK_VALUES // len(rows))
    for start in range(0, rows.shape[1], length):
        where = slice(start, start + length)
        block = rows[:, where].astype(np.float64)
        block *= factors[:, None]
        yield where, block
