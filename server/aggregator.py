"""The exact sum: updates are added in fixed point, so the mean is the same bytes in whatever order they come.

Each float tensor has a scale of its own, 2^s, chosen from the base model and the cohort's samples so that int64 can't
overflow: |w| <= bound is checked before a tensor gets here, and samples * bound * 2^s < 2^62. Integer tensors take the
largest value. What is held is one accumulator of the model's size, however many clients there are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.messages.tensors import DTYPES, FLOATS, Array, Layout, Tensors

WEIGHT_HEADROOM_BITS: Final = 10
"""A weight may become 2^10 times as large as the base model's largest (or than 1) before its update is refused."""

BUFFER_HEADROOM_BITS: Final = 20
"""Running statistics start at 0 and 1 and may get far from there in a single round."""

_SUM_BITS: Final = 62
_MANTISSA_BITS: Final = 50
_LARGEST_EXPONENT: Final = 1023

# x + 1.5 * 2^52 has a unit in the last place of 1: the addition rounds x to an integer, half to even, and leaves that
# integer in the low bits. Several times faster than rint and a conversion, and exact for |x| < 2^51.
_MAGIC: Final = 1.5 * 2.0**52
_MAGIC_BITS: Final = int(np.float64(_MAGIC).view(np.int64))

_BLOCK: Final = 1 << 15
"""Elements per step: two buffers of 256 kB stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a round's updates are added; equal plans give sums that can be merged.

    Attributes:
        layout: the tensors that an update must have.
        bounds: per tensor but those of BOOL, the largest magnitude accepted.
        shifts: per float tensor, s.
        max_samples: the largest sum of samples.
    """

    layout: Layout
    bounds: dict[str, float]
    shifts: dict[str, int]
    max_samples: int


def plan(base: Mapping[str, Array], layout: Layout, buffers: frozenset[str], max_samples: int) -> Plan:
    """Choose the scales of a round.

    Args:
        base: the global model that the clients start from.
        layout: the tensors that an update has; a part of the base model's.
        buffers: names of tensors that are statistics, not weights.
        max_samples: no cohort's samples sum up to more.
    """
    floats = [name for name, (dtype, _) in layout.items() if dtype in FLOATS]
    exponents = {name: _bound_exponent(base[name], name in buffers) for name in floats}
    room = min(_MANTISSA_BITS, _SUM_BITS - max_samples.bit_length())
    return Plan(
        layout=layout,
        bounds={name: 2.0**exponent for name, exponent in exponents.items()} | _count_bounds(base, layout),
        shifts={name: room - exponent for name, exponent in exponents.items()},
        max_samples=max_samples,
    )


def _count_bounds(base: Mapping[str, Array], layout: Layout) -> dict[str, float]:
    """No round counts further than 2^31; and the largest value wins, so a forged one would stay for ever."""
    counts = [name for name, (dtype, _) in layout.items() if dtype not in FLOATS and dtype != "BOOL"]
    return {name: 2.0**31 + float(np.max(np.abs(base[name].astype(np.float64)), initial=0.0)) for name in counts}


def _bound_exponent(base: Array, is_buffer: bool) -> int:  # noqa: FBT001 (two kinds of tensor, private)
    largest = max(1.0, -float(base.min()), float(base.max())) if base.size else 1.0
    headroom = BUFFER_HEADROOM_BITS if is_buffer else WEIGHT_HEADROOM_BITS
    return min(_LARGEST_EXPONENT, math.ceil(math.log2(largest)) + headroom)


class Aggregate:
    """A running sum of updates that were checked against the plan.

    Attributes:
        samples: the sum of the added updates' samples.
        updates: how many were added.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.samples = 0
        self.updates = 0
        self._sums = {name: np.zeros(_size(plan.layout[name][1]), np.int64) for name in plan.shifts}
        self._largest: Tensors = {}
        self._floats = np.empty(_BLOCK, np.float64)

    def add(self, tensors: Mapping[str, Array], samples: int) -> None:
        """Add one update.

        Args:
            tensors: exactly the plan's, finite and within its bounds.
            samples: the update's weight, at least 1.

        Raises:
            ValueError: the samples sum up to more than was planned for, so the sum could overflow.
        """
        if self.samples + samples > self.plan.max_samples:
            raise ValueError(f"{self.samples + samples} samples, planned for {self.plan.max_samples}")
        self.samples += samples
        self.updates += 1
        for name, tensor in tensors.items():
            if name in self._sums:
                self._add_float(name, tensor.reshape(-1), samples)
            else:
                self._keep_largest(name, tensor)

    def merge(self, other: "Aggregate") -> None:
        """Add what another aggregator of the same plan has added.

        Raises:
            ValueError: the plans differ, or the samples are more than was planned for.
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
        """The mean of the updates, weighted by samples, in the plan's dtypes; integers: the largest.

        Raises:
            ValueError: nothing was added.
        """
        if not self.samples:
            raise ValueError("the mean of no updates")
        means = {name: self._mean_of(name) for name in self._sums}
        return {name: means[name] if name in means else self._largest[name] for name in self.plan.layout}

    def _add_float(self, name: str, flat: NDArray[Any], samples: int) -> None:
        scale, total = 2.0 ** self.plan.shifts[name], self._sums[name]
        for start in range(0, flat.size, _BLOCK):
            part = flat[start : start + _BLOCK]
            scaled = self._floats[: part.size]
            np.copyto(scaled, part)
            scaled *= scale
            scaled += _MAGIC
            fixed = scaled.view(np.int64)
            fixed -= _MAGIC_BITS
            fixed *= samples
            total[start : start + _BLOCK] += fixed

    def _keep_largest(self, name: str, tensor: Array) -> None:
        held = self._largest.get(name)
        # np.maximum of two 0-d arrays is a number.
        self._largest[name] = tensor.copy() if held is None else np.asarray(np.maximum(held, tensor))

    def _mean_of(self, name: str) -> Array:
        dtype, shape = self.plan.layout[name]
        mean = self._sums[name] / (self.samples * 2.0 ** self.plan.shifts[name])
        return mean.astype(DTYPES[dtype]).reshape(shape)


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
