"""Exact, weighted mean of updates. Sums are in fixed point, so the mean has the same bytes in any order of updates.

Each float tensor has its own scale 2^s, chosen from the base model and the job so that int64 can't overflow: the gate
checks |x| <= bound before a tensor is added, and weights * bound * 2^s < 2^62. Integer tensors take the largest value.
Memory: one accumulator of the model's size, independent of the number of clients.
"""

import fnmatch
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from broker.messages import tensors
from broker.messages.tensors import FLOATS, Array, Layout, Tensors
from server import values
from server.values import Scaled, Values

WEIGHT_HEADROOM_BITS: Final = 10
"""A weight may become 2^10 times as large as the base model's largest (or than 1) before its update is refused."""

BUFFER_HEADROOM_BITS: Final = 20
"""The same for buffers: running statistics start at 0 and 1 and may move far in a single round."""

_COUNT_HEADROOM: Final = 2.0**31
"""An integer tensor may grow by this much in a round. The largest value wins, so a forged one would stay forever."""

_SUM_BITS: Final = 62
_MANTISSA_BITS: Final = 50
_LARGEST_EXPONENT: Final = 1023

# The spacing of floats at x + 1.5 * 2^52 is 1: the addition rounds x to an integer, half to even, and leaves this
# integer in the low bits. It is several times faster than rint and a conversion, and exact for |x| < 2^51.
_MAGIC: Final = 1.5 * 2.0**52
_MAGIC_BITS: Final = int(np.float64(_MAGIC).view(np.int64))

_NO_FACTORS: Final[Mapping[str, float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Plan:
    """How a round's updates are added. Sums with equal plans can be merged.

    Attributes:
        layout: the dtype and shape of each tensor of an update.
        bounds: the largest accepted magnitude of each tensor; BOOL tensors have no bound.
        shifts: s of each float tensor.
        max_weight: the largest possible sum of the updates' weights.
    """

    layout: Layout
    bounds: dict[str, float]
    shifts: dict[str, int]
    max_weight: int


def plan(
    base: Mapping[str, Array], buffers: frozenset[str], max_weight: int, headroom: Mapping[str, int] | None = None
) -> Plan:
    """Choose a round's scales and bounds.

    Args:
        base: the tensors that an update has, as the clients start from them.
        buffers: names of the tensors that are statistics, not weights.
        max_weight: upper bound of the sum of the updates' weights. It must follow from the job alone, because the
            result's last bits depend on it.
        headroom: bits by which tensors may grow, by pattern of their names (`fnmatch`).
    """
    bounds: dict[str, float] = {}
    shifts: dict[str, int] = {}
    bits = min(_MANTISSA_BITS, _SUM_BITS - max_weight.bit_length())
    layout = tensors.layout(base)
    for name, (dtype, _) in layout.items():
        tensor = base[name]
        if dtype in FLOATS:
            largest = max(1.0, -float(tensor.min()), float(tensor.max())) if tensor.size else 1.0
            growth = _growth_bits(name, buffers, headroom or {})
            exponent = min(_LARGEST_EXPONENT, math.ceil(math.log2(largest)) + growth)
            bounds[name], shifts[name] = 2.0**exponent, bits - exponent
        elif dtype != "BOOL":
            bounds[name] = _COUNT_HEADROOM + float(np.max(np.abs(tensor.astype(np.float64)), initial=0.0))
    return Plan(layout, bounds, shifts, max_weight)


def _growth_bits(name: str, buffers: frozenset[str], headroom: Mapping[str, int]) -> int:
    for pattern, bits in headroom.items():
        if fnmatch.fnmatchcase(name, pattern):
            return bits
    return BUFFER_HEADROOM_BITS if name in buffers else WEIGHT_HEADROOM_BITS


class Mean(Mapping[str, Array]):
    """The mean of what an aggregate holds when a tensor is asked for. A float tensor is computed then, and not kept.

    Args:
        aggregate: the sums; at least one update was added.
    """

    def __init__(self, aggregate: "Aggregate") -> None:
        self._aggregate = aggregate

    def __getitem__(self, name: str) -> Array:
        of = self._aggregate
        if name not in of._sums:
            return of._largest[name]
        scale = of.weight * 2.0 ** of.plan.shifts[name]
        return np.asarray(of._sums[name] / scale).reshape(of.plan.layout[name][1])

    def __iter__(self) -> Iterator[str]:
        yield from self._aggregate._sums
        yield from self._aggregate._largest

    def __len__(self) -> int:
        return len(self._aggregate._sums) + len(self._aggregate._largest)


class Aggregate:
    """A running sum of updates. The updates are checked against the plan before they are added.

    Attributes:
        plan: the round's plan.
        weight: sum of the added updates' weights.
        updates: number of added updates.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.weight = 0
        self.updates = 0
        self._sums = {name: np.zeros(math.prod(plan.layout[name][1]), np.int64) for name in plan.shifts}
        self._largest: Tensors = {}
        self._floats = np.empty(values.READ, np.float64)

    def add(self, update: Mapping[str, Values], weight: int, factors: Mapping[str, float] = _NO_FACTORS) -> None:
        """Add one update.

        Args:
            update: the plan's tensors, finite and within its bounds.
            weight: the update's weight, at least 1.
            factors: what float tensors are multiplied by before that, by name; they stay within their bounds.

        Raises:
            ValueError: the sum of weights is larger than planned, so the sum could overflow.
        """
        if self.weight + weight > self.plan.max_weight:
            raise ValueError(f"a weight of {self.weight + weight}, planned for {self.plan.max_weight}")
        self.weight += weight
        self.updates += 1
        for name, tensor in update.items():
            if isinstance(tensor, Scaled) or name in self._sums:
                self._add(name, tensor, weight, factors.get(name, 1.0))
            else:
                self._keep_largest(name, tensor)

    def _add(self, name: str, tensor: Values, weight: int, factor: float) -> None:
        total, scale = self._sums[name], 2.0 ** self.plan.shifts[name] * factor
        for where, block in values.blocks(tensor, self._floats, scale):
            np.add(block, _MAGIC, out=block)
            fixed = block.view(np.int64)
            fixed -= _MAGIC_BITS
            fixed *= weight
            total[where] += fixed

    def merge(self, other: "Aggregate") -> None:
        """Add the sum of another aggregator with the same plan.

        Raises:
            ValueError: the plans differ, or the sum of weights is larger than planned.
        """
        if other.plan != self.plan or self.weight + other.weight > self.plan.max_weight:
            raise ValueError("these sums do not belong to one round")
        self.weight += other.weight
        self.updates += other.updates
        for name in self._sums:
            self._sums[name] += other._sums[name]
        for name, tensor in other._largest.items():
            self._keep_largest(name, tensor)

    def mean(self) -> "Mean":
        """Weighted mean of the updates: float64 for float tensors. Integer tensors: the largest value, in their dtype.

        Raises:
            ValueError: no update was added.
        """
        if not self.weight:
            raise ValueError("the mean of no updates")
        return Mean(self)

    def release(self) -> None:
        """Free the sums. Nothing can be added after that."""
        self._sums = {}
        self._largest = {}

    def _keep_largest(self, name: str, tensor: Array) -> None:
        largest = self._largest.get(name)
        # np.maximum of two 0-d arrays is a number, not an array.
        self._largest[name] = tensor.copy() if largest is None else np.asarray(np.maximum(largest, tensor))
