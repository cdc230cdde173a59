"""Guards: a bound on what one client can change in a round, under every strategy.

A guard's limit is on record when a round opens, so the updates can still be added one after the other, in any order.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from broker.messages.job import Job
from broker.messages.strategy import FixedGuard, MedianGuard, QuantileGuard
from broker.messages.tensors import Array, Tensors
from server.strategies.share import Share

_LIMIT: Final = "guard.limit"
"""The server state of the weights' limit: one float64."""

_AUXILIARY_LIMIT: Final = "guard.auxiliary_limit"
"""The same for auxiliary tensors, which have another size than weights."""


class Guard:
    """Scales changes down to a norm. This one has no limit, and keeps nothing.

    Attributes:
        is_active: whether the norms of the changes must be known.
    """

    is_active: bool = False

    def before(self) -> Tensors:
        """Return the server state before the first round."""
        return {}

    def limits(self, state: Tensors) -> tuple[float, float]:  # noqa: ARG002 (of use in other guards)
        """Return the largest norm of a change in the open round, and of the auxiliary tensors beside it.

        Args:
            state: the server state that the round started with.
        """
        return math.inf, math.inf

    def after(self, state: Tensors, shares: Mapping[str, Share]) -> Tensors:  # noqa: ARG002
        """Return the server state after a round.

        Args:
            state: the server state that the round started with.
            shares: how the counted updates entered the sum, by client id.
        """
        return {}


class Fixed(Guard):
    """The job sets the limit."""

    is_active = True

    def __init__(self, guard: FixedGuard) -> None:
        self._guard = guard

    def limits(self, state: Tensors) -> tuple[float, float]:  # noqa: ARG002
        """Implements `Guard.limits`."""
        return self._guard.norm, math.inf


class Median(Guard):
    """The limit is a multiple of the median norm of the last round's counted updates."""

    is_active = True

    def __init__(self, guard: MedianGuard) -> None:
        self._guard = guard

    def before(self) -> Tensors:
        """Implements `Guard.before`."""
        return {_LIMIT: _number(math.inf if self._guard.first is None else self._guard.first)}

    def limits(self, state: Tensors) -> tuple[float, float]:
        """Implements `Guard.limits`."""
        return _limits(state)

    def after(self, state: Tensors, shares: Mapping[str, Share]) -> Tensors:
        """Implements `Guard.after`. Of a median of 0 no limit can be made: the last one stays."""
        limit, auxiliary = _limits(state)
        norms = float(np.median([share.norm for share in shares.values()]))
        others = float(np.median([share.auxiliary_norm for share in shares.values()]))
        after = {_LIMIT: _number(self._guard.multiple * norms if norms else limit)}
        if others:
            auxiliary = self._guard.multiple * others
        return after | ({} if math.isinf(auxiliary) else {_AUXILIARY_LIMIT: _number(auxiliary)})


class Quantile(Guard):
    """The limit follows a quantile of the norms (Andrew et al. 2021, arXiv 1905.03871)."""

    is_active = True

    def __init__(self, guard: QuantileGuard) -> None:
        self._guard = guard

    def before(self) -> Tensors:
        """Implements `Guard.before`."""
        return {_LIMIT: _number(self._guard.first)}

    def limits(self, state: Tensors) -> tuple[float, float]:
        """Implements `Guard.limits`."""
        return _limits(state)

    def after(self, state: Tensors, shares: Mapping[str, Share]) -> Tensors:
        """Implements `Guard.after`."""
        limit, _ = _limits(state)
        within = sum(share.norm <= limit for share in shares.values()) / len(shares)
        return {_LIMIT: _number(limit * math.exp(-self._guard.rate * (within - self._guard.quantile)))}


def create(job: Job) -> Guard:
    """Create the guard that the job names."""
    match job.strategy.guard:
        case FixedGuard() as guard:
            return Fixed(guard)
        case MedianGuard() as guard:
            return Median(guard)
        case QuantileGuard() as guard:
            return Quantile(guard)
        case None:
            return Guard()


def clip(norm: float, limit: float) -> float:
    """Return the factor that brings a change down to a limit: at most 1, and 1 for a change without any norm.

    Args:
        norm: the change's norm.
        limit: the largest norm.
    """
    return limit / norm if norm > limit else 1.0


def _limits(state: Tensors) -> tuple[float, float]:
    return tuple(float(state.get(name, _number(math.inf))) for name in (_LIMIT, _AUXILIARY_LIMIT))  # type: ignore[return-value]


def _number(value: float) -> Array:
    return np.asarray(value, np.float64)
