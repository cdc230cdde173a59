"""What a strategy is to the server: the state that it keeps, what it reads of updates, and how a round changes it.

A strategy does no I/O and is deterministic: two servers get the same bytes. Its memory between rounds is tensors in
`server_state`; the server publishes them beside the model, so they survive a crash.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np

from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.tensors import FLOATS, Array, Tensors, layout
from broker.messages.update import UpdateHeader
from server.strategies import guards
from server.strategies.share import Share

AUXILIARY: Final = "aux."
"""The names of tensors of an update that are not the model's begin with this."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The global model, its tensors told apart by what may be done with them.

    Attributes:
        tensors: every tensor, by name.
        frozen: names of the tensors that clients do not train; updates leave them out.
        buffers: names of the tensors that are statistics, not weights.
    """

    tensors: Tensors
    frozen: frozenset[str] = frozenset()
    buffers: frozenset[str] = frozenset()

    @property
    def trained(self) -> Tensors:
        """The tensors that an update has."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.frozen}

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the trained float tensors that an optimizer may step."""
        return tuple(name for name in self._floats if name not in self.buffers)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the float buffers, such as BatchNorm's means and variances. They are averaged."""
        return tuple(name for name in self._floats if name in self.buffers)

    @property
    def counters(self) -> tuple[str, ...]:
        """Names of the trained integer and bool tensors. The largest value wins."""
        floats = set(self._floats)
        return tuple(name for name in self.trained if name not in floats)

    @property
    def _floats(self) -> tuple[str, ...]:
        return tuple(name for name, (dtype, _) in layout(self.trained).items() if dtype in FLOATS)


@dataclass(frozen=True, slots=True)
class GlobalState:
    """The global state of a job.

    Attributes:
        weights: every tensor of the global model.
        server_state: the strategy's own tensors, such as a server optimizer's momentum.
    """

    weights: Tensors
    server_state: Tensors = field(default_factory=dict)


class Reduction(Protocol):
    """Reduces all counted updates of a round to one, element by element. One is made for each round."""

    @property
    def needs_look(self) -> bool:
        """Whether every block must be looked at before the first one is reduced."""

    def look(self, changes: Array) -> None:
        """Look at a block of all counted updates.

        Args:
            changes: float64 (updates, elements), the updates sorted by client id, in the updates' form.
        """

    def reduce(self, values: Array) -> Array:
        """Reduce the values of all counted updates to one.

        Args:
            values: int64 (updates, elements), fixed-point numbers, the updates sorted by client id.

        Returns:
            Float64 (elements), in units of the fixed point.
        """


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished round.

    Attributes:
        record: the job's record while the round was open.
        model: the model that the round started from.
        mean: exact weighted mean of the counted updates, float64 for float tensors; the largest value of the others.
            Auxiliary tensors too.
        form: what an update holds of a float tensor: `delta`, its change, or `weights`, its value.
        headers: the metadata of the counted updates, by client id.
        shares: how each of them entered the sum, by client id.
        reductions: what the rule's `Reduction` has made of each weight, float64; empty for rules without one.
    """

    record: JobRecord
    model: ModelInfo
    mean: Mapping[str, Array]
    form: Literal["delta", "weights"]
    headers: Mapping[str, UpdateHeader] = field(default_factory=dict)
    shares: Mapping[str, Share] = field(default_factory=dict)
    reductions: Tensors = field(default_factory=dict)

    def change(self, name: str, value: Array | None = None) -> Array:
        """Return the change of a weight, float64.

        Args:
            name: the weight's name.
            value: in the updates' form; None: the mean.
        """
        of = self.mean[name] if value is None else value
        return of if self.form == "delta" else of - self.model.tensors[name]

    def stepped(self, name: str, change: Array) -> Array:
        """A weight after a change, computed in float64 and cast once to its dtype.

        Args:
            name: the weight's name.
            change: float64.
        """
        base = self.model.tensors[name]
        stepped = np.asarray(base.astype(np.float64))
        stepped += change
        return stepped.astype(base.dtype)

    def averaged(self, but: Collection[str]) -> Tensors:
        """The trained tensors as federated averaging has them after the round.

        Args:
            but: names of those that something else has computed.
        """
        counters = {name: self.mean[name] for name in self.model.counters if name not in but}
        return counters | {name: self.reduced(name, self.mean[name]) for name in self.model._floats if name not in but}

    def reduced(self, name: str, value: Array) -> Array:
        """A tensor whose update values were reduced to one, cast once to its dtype.

        Args:
            name: the tensor's name.
            value: float64, in the updates' form.
        """
        if self.form == "delta":
            return self.stepped(name, value)
        return np.asarray(value.astype(self.model.tensors[name].dtype))


class Strategy:
    """Base of the strategies; by itself it lets all updates count equally and changes nothing of the model.

    Args:
        job: the job, whose `strategy` has the parameters.

    Attributes:
        needs: names of the metrics that every update must have.
        needs_norms: whether the norms of the changes must be known, also without a guard.
        needs_all: whether it has a `reduction`.
    """

    needs: tuple[str, ...] = ()
    needs_norms: bool = False
    needs_all: bool = False

    def __init__(self, job: Job) -> None:
        self.job = job
        self.parameters: Any = job.strategy
        self.guard = guards.create(job)

    def init(self, model: ModelInfo) -> GlobalState:
        """Return the state before the first round."""
        return GlobalState(model.tensors, self.guard.before())

    def max_weight(self) -> int:
        """Return the largest weight of one update. It follows from the job alone: the sums' scale depends on it."""
        return 1

    def weight(self, header: UpdateHeader) -> int:  # noqa: ARG002 (of use in other strategies)
        """Return the weight of an update, 1 to `max_weight()`."""
        return 1

    def scale(self, header: UpdateHeader, record: JobRecord, state: Tensors) -> float:  # noqa: ARG002
        """Return what the change of each weight is multiplied by before it is added. By default it is not.

        Args:
            header: the update's metadata, checked.
            record: the job's record while the round is open.
            state: the server state that the round started with.

        Raises:
            Refused: the update does not say what the strategy must know.
        """
        return 1.0

    def along(self, state: GlobalState) -> Tensors:  # noqa: ARG002
        """Return tensors that every task refers to, beside the model. By default none."""
        return {}

    def auxiliary(self, model: ModelInfo) -> Tensors:  # noqa: ARG002
        """Return what every update must have beside the model's tensors: names in `aux.`, and the size of values.

        Each is summed exactly like a weight; its bound is relative to the tensor that is returned.
        """
        return {}

    def reduction(self, shares: Sequence[Share]) -> Reduction | None:  # noqa: ARG002
        """Return what reduces a round's updates, if the strategy must see them all at once. By default it need not.

        Args:
            shares: how the counted updates entered the sum, sorted by client id.
        """
        return None

    def apply(self, state: GlobalState, finished: Finished) -> GlobalState:
        """Return the state after a round. Frozen tensors stay.

        Args:
            state: the state before the round.
            finished: the round.
        """
        stepped, own = self.step(state, finished)
        after = self.guard.after(state.server_state, finished.shares)
        return GlobalState({**state.weights, **finished.averaged(but=stepped), **stepped}, {**own, **after})

    def step(self, state: GlobalState, finished: Finished) -> tuple[Tensors, Tensors]:  # noqa: ARG002
        """Return the weights that are not simply averaged, and the strategy's own tensors after a round.

        Args:
            state: the state before the round.
            finished: the round.
        """
        return {}, {}
