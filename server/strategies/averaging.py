"""The strategies that are made of parts: a rule makes one change of the updates, an optimizer steps the model by it.

Federated averaging is the mean without an optimizer (McMahan et al. 2017, arXiv 1602.05629; paper, section 2.1).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.tensors import Array, Tensors
from broker.messages.update import UpdateHeader
from server.strategies.base import Finished, GlobalState, Reduction, Strategy
from server.strategies.optimizers import Optimizer
from server.strategies.rules import Rule
from server.strategies.share import Share


class Averaging(Strategy):
    """A rule, and on top of it a server optimizer. Buffers and counters are averaged, whatever the rule is.

    Args:
        job: the job.
        rule: how the updates become one change.
        optimizer: how that steps the model; None: it is the step.
    """

    def __init__(self, job: Job, rule: Rule, optimizer: Optimizer | None) -> None:
        super().__init__(job)
        self._rule = rule
        self._optimizer = optimizer
        self._is_equal = getattr(job.strategy, "weights", "samples") == "equal"
        self.needs = rule.needs
        self.needs_norms = rule.needs_norms
        self.needs_all = rule.needs_all

    def max_weight(self) -> int:
        """Implements `Strategy.max_weight`."""
        return 1 if self._is_equal else self.job.cohort.max_samples

    def weight(self, header: UpdateHeader) -> int:
        """Implements `Strategy.weight`: the number of samples."""
        return 1 if self._is_equal else header.samples

    def scale(self, header: UpdateHeader, record: JobRecord, state: Tensors) -> float:  # noqa: ARG002
        """Implements `Strategy.scale`."""
        return self._rule.scale(header, record)

    def reduction(self, shares: Sequence[Share]) -> Reduction | None:
        """Implements `Strategy.reduction`."""
        return self._rule.reduction(shares)

    def step(self, state: GlobalState, finished: Finished) -> tuple[Tensors, Tensors]:
        """Implements `Strategy.step`."""
        names = finished.model.weights
        if self._optimizer is None:
            return {name: finished.reduced(name, self._rule.value(name, finished)) for name in names}, {}
        return self._stepped(self._optimizer, state, finished, names)

    def _stepped(
        self, optimizer: Optimizer, state: GlobalState, finished: Finished, names: Iterable[str]
    ) -> tuple[Tensors, Tensors]:
        weights, kept = Tensors(), Tensors()
        for name in names:
            change = finished.change(name, self._rule.value(name, finished))
            before = tuple(_moment(state, f"{each}.{name}", optimizer.initial(each)) for each in optimizer.moments)
            step, after = optimizer.step(change, before, finished.record.done)
            weights[name] = finished.stepped(name, step)
            for each, value in zip(optimizer.moments, after, strict=True):
                kept[f"{each}.{name}"] = value.astype(np.float32)
        return weights, kept


def _moment(state: GlobalState, name: str, initial: float) -> Array:
    return state.server_state.get(name, np.full((), initial)).astype(np.float64)
