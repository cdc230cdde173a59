"""Decides how each update enters a round's sum: its weight, the strategy's scale, and the guard's bound. Pure."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from broker.messages.job_record import JobRecord
from broker.messages.tensors import Tensors
from server import values
from server.aggregator import Plan
from server.errors import Refused
from server.gate import Checked
from server.strategies import guards
from server.strategies.base import AUXILIARY, Strategy
from server.strategies.share import Share
from server.values import READ, Values


class Shares:
    """Decides for the updates of one round. What it decides of one update depends on no other.

    Args:
        strategy: the job's strategy.
        record: the job's record while the round is open.
        plan: the round's plan.
        weights: names of the weights: what a scale and a guard are about.
        state: the server state that the round has started with.
    """

    def __init__(
        self, strategy: Strategy, record: JobRecord, plan: Plan, weights: Iterable[str], state: Tensors
    ) -> None:
        self._strategy = strategy
        self._record = record
        self._plan = plan
        self._state = state
        self._weights = tuple(weights)
        self._auxiliary = tuple(name for name in plan.shifts if name.startswith(AUXILIARY))
        self._limits = strategy.guard.limits(state)
        self._needs_norms = strategy.needs_norms or strategy.guard.is_active

    def share(self, update: Checked) -> Share:
        """Return how an update enters the sum.

        Args:
            update: checked by the gate.

        Raises:
            Refused: it does not say what the strategy must know, or the sum could overflow.
        """
        scale = self._strategy.scale(update.header, self._record, self._state)
        self._check_scaled(update.tensors, scale)
        weight = self._strategy.weight(update.header)
        if not self._needs_norms:
            return Share(weight, scale)
        norm = scale * norm_of(update.tensors, self._weights)
        auxiliary = norm_of(update.tensors, self._auxiliary)
        limit, auxiliary_limit = self._limits
        return Share(weight, scale, norm, guards.clip(norm, limit), auxiliary, guards.clip(auxiliary, auxiliary_limit))

    def factors(self, share: Share) -> dict[str, float]:
        """Return what each tensor of an update is multiplied by before it is added; tensors with 1 are left out.

        Args:
            share: how the update enters the sum.
        """
        weights = dict.fromkeys(self._weights, share.factor) if share.factor != 1.0 else {}
        return weights | (dict.fromkeys(self._auxiliary, share.auxiliary_clip) if share.auxiliary_clip != 1.0 else {})

    def _check_scaled(self, tensors: Mapping[str, Values], scale: float) -> None:
        """Check the bounds again for a change that is made larger: the sum must not overflow."""
        if scale <= 1.0:
            return
        for name in self._weights:
            largest = scale * values.largest(tensors[name])
            if not largest <= self._plan.bounds[name]:
                raise Refused(
                    "magnitude",
                    f"{name} reaches {largest:g} after the strategy's scale, at most {self._plan.bounds[name]:g} is "
                    "accepted: training.headroom lifts this bound",
                )


def norm_of(tensors: Mapping[str, Values], names: Iterable[str]) -> float:
    """Return the L2 norm of some tensors together, computed in float64.

    Args:
        tensors: tensors by name.
        names: which of them.
    """
    buffer = np.empty(READ)
    blocks = (block for name in names for _, block in values.blocks(tensors[name], buffer))
    squares = [float(np.sum(np.square(block, out=block))) for block in blocks]
    # The sum of the blocks is exact, so it does not depend on how the tensors are named and ordered.
    return math.sqrt(math.fsum(squares))
