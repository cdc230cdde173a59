"""Exact, weighted mean of updates. Sums are in fixed point, so the mean has the same bytes in any order of updates.

Each float tensor has its own scale 2^s, chosen from the base model and the cohort's samples so that int64 can't
overflow: the gate checks |w| <= bound before a tensor is added, and samples * bound * 2^s < 2^62. Integer tensors take
the largest value. Memory: one accumulator of the model's size, independent of the number of clients.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from broker.messages.tensors import DTYPES, FLOATS, Array, Layout, Tensors

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

_BLOCK: Final = 1 << 15
"""Elements per block: two buffers of 256 kB stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a round's updates are added. Sums with equal plans can be merged.

    Attributes:
        layout: the dtype and shape of each tensor of an update.
        bounds: the largest accepted magnitude of each tensor; BOOL tensors have no bound.
        shifts: s of each float tensor.
        max_samples: the largest possible sum of samples.
    """

    layout: Layout
    bounds: dict[str, float]
    shifts: dict[str, int]
    max_samples: int


def plan(base: Mapping[str, Array], layout: Layout, buffers: frozenset[str], max_samples: int) -> Plan:
    """Choose a round's scales and bounds.

    Args:
        base: the global model that the clients start from.
        layout: the dtype and shape of each tensor of an update; a part of the base model's.
        buffers: names of the tensors that are statistics, not weights.
        max_samples: upper bound of the sum of the cohort's samples.
    """
    bounds: dict[str, float] = {}
    shifts: dict[str, int] = {}
    bits = min(_MANTISSA_BITS, _SUM_BITS - max_samples.bit_length())
    for name, (dtype, _) in layout.items():
        tensor = base[name]
        if dtype in FLOATS:
            largest = max(1.0, -float(tensor.min()), float(tensor.max())) if tensor.size else 1.0
            headroom = BUFFER_HEADROOM_BITS if name in buffers else WEIGHT_HEADROOM_BITS
            exponent = min(_LARGEST_EXPONENT, math.ceil(math.log2(largest)) + headroom)
            bounds[name], shifts[name] = 2.0**exponent, bits - exponent
        elif dtype != "BOOL":
            bounds[name] = _COUNT_HEADROOM + float(np.max(np.abs(tensor.astype(np.float64)), initial=0.0))
    return Plan(layout, bounds, shifts, max_samples)


class Aggregate:
    """A running sum of updates. The updates are checked against the plan before they are added.

    Attributes:
        plan: the round's plan.
        samples: sum of the added updates' samples.
        updates: number of added updates.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.samples = 0
        self.updates = 0
        self._sums = {name: np.zeros(math.prod(plan.layout[name][1]), np.int64) for name in plan.shifts}
        self._largest: Tensors = {}
        self._floats = np.empty(_BLOCK, np.float64)

    def add(self, tensors: Mapping[str, Array], samples: int) -> None:
        """Add one update.

        Args:
            tensors: the plan's tensors, finite and within its bounds.
            samples: the update's weight, at least 1.

        Raises:
            ValueError: the sum of samples is larger than planned, so the sum could overflow.
        """
        if self.samples + samples > self.plan.max_samples:
            raise ValueError(f"{self.samples + samples} samples, planned for {self.plan.max_samples}")
        self.samples += samples
        self.updates += 1
        for name, tensor in tensors.items():
            if name not in self._sums:
                self._keep_largest(name, tensor)
                continue
            flat, total, scale = tensor.reshape(-1), self._sums[name], 2.0 ** self.plan.shifts[name]
            for start in range(0, flat.size, _BLOCK):
                block = flat[start : start + _BLOCK]
                scaled = self._floats[: block.size]
                np.copyto(scaled, block)
                scaled *= scale
                scaled += _MAGIC
                fixed = scaled.view(np.int64)
                fixed -= _MAGIC_BITS
                fixed *= samples
                total[start : start + _BLOCK] += fixed

    def merge(self, other: "Aggregate") -> None:
        """Add the sum of another aggregator with the same plan.

        Raises:
            ValueError: the plans differ, or the sum of samples is larger than planned.
        """
        if other.plan != self.plan or self.samples + other.samples > self.plan.max_samples:
            raise ValueError("these sums do not belong to one round")
        self.samples += other.samples
        self.updates += other.updates
        for name in self._sums:
            self._sums[name] += other._sums[name]
        for name, tensor in other._largest.items():
            self._keep_largest(name, tensor)

    def mean(self) -> Tensors:
        """Mean of the updates, weighted by samples, in the plan's dtypes. Integer tensors: the largest value.

        Raises:
            ValueError: no update was added.
        """
        if not self.samples:
            raise ValueError("the mean of no updates")
        means: Tensors = {}
        for name, (dtype, shape) in self.plan.layout.items():
            if name in self._sums:
                mean = self._sums[name] / (self.samples * 2.0 ** self.plan.shifts[name])
                means[name] = mean.astype(DTYPES[dtype]).reshape(shape)
            else:
                means[name] = self._largest[name]
        return means

    def _keep_largest(self, name: str, tensor: Array) -> None:
        largest = self._largest.get(name)
        # np.maximum of two 0-d arrays is a number, not an array.
        self._largest[name] = tensor.copy() if largest is None else np.asarray(np.maximum(largest, tensor))
