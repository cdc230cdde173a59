"""Reduces a round's counted updates element by element, for strategies that must see them all at once.

The updates are read again from the log, sorted by client, so every server gets the same bytes, also after a crash. They
are spooled to a temporary file, and reduced block by block: memory does not grow with the number of clients.
"""

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from broker import topics
from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages.tensors import DTYPES, Array, Tensors
from broker.messages.update import UpdateHeader
from server import gate
from server.aggregator import Plan
from server.gate import Expectation

BLOCK_VALUES: Final = 1 << 19
"""Values of all updates per block, 4 MB as float64: memory is the same for 10 and 1,000 updates."""

Reduce = Callable[[Array], Array]
"""Int64 (updates, elements) to float64 (elements): `ReplayStrategy.reduce`."""


async def reduce_updates(
    broker: Broker,
    headers: Mapping[str, UpdateHeader],
    expectation: Expectation,
    names: tuple[str, ...],
    reduce: Reduce,
) -> Tensors:
    """Return the reduced tensors, float64, in the updates' form.

    Args:
        broker: has the log.
        headers: the metadata of the counted updates, by client id.
        expectation: what the round expects of an update.
        names: the float tensors to reduce.
        reduce: reduces a block.

    Raises:
        CorruptPayload: an update is in the log no longer.
    """
    plan = expectation.plan
    with tempfile.TemporaryDirectory(prefix="fedkeeper-replay-") as folder:
        spool = {name: _open(Path(folder) / f"{i}", name, plan, len(headers)) for i, name in enumerate(names)}
        for row, client in enumerate(sorted(headers)):
            tensors = await _read(broker, headers[client], expectation)
            for name in names:
                spool[name][row] = tensors[name].reshape(-1)
        return await asyncio.to_thread(lambda: {name: _reduce(spool[name], name, plan, reduce) for name in names})


def _open(path: Path, name: str, plan: Plan, rows: int) -> Array:
    dtype, shape = plan.layout[name]
    return np.memmap(path, DTYPES[dtype], "w+", shape=(rows, max(1, int(np.prod(shape)))))


async def _read(broker: Broker, header: UpdateHeader, expectation: Expectation) -> Tensors:
    topic = topics.update(header.job, header.round, header.client, header.attempt)
    value = await broker.get(topic)
    if value is None:
        raise CorruptPayload(topic, "it is in the log no longer")
    return gate.check(value.payload, gate.parse_topic(topic), expectation).tensors


def _reduce(rows: Array, name: str, plan: Plan, reduce: Reduce) -> Array:
    """Reduce one tensor in fixed point: the order of numbers that differ only by rounding must not matter."""
    scale, length = 2.0 ** plan.shifts[name], max(1, BLOCK_VALUES // len(rows))
    reduced = np.empty(rows.shape[1], np.float64)
    for start in range(0, rows.shape[1], length):
        block = rows[:, start : start + length].astype(np.float64)
        block *= scale
        fixed = np.rint(block, out=block).astype(np.int64)
        reduced[start : start + length] = reduce(fixed) / scale
    return reduced.reshape(plan.layout[name][1])
