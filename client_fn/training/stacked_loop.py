"""The loop that trains several clients at once, and the plan of their batches."""

import collections
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from client_fn import strategies
from client_fn.errors import LeaseOver
from client_fn.strategies.base import ClientStrategy
from client_fn.training import batches, losses, optimizers, stacked
from client_fn.training.batches import TensorSamples
from client_fn.training.context import Context
from client_fn.training.graphs import Inputs, Recorder, Repeated
from client_fn.training.learner import Learner
from client_fn.training.orders import Train

ROWS: Final = "rows"
SIZES: Final = "sizes"
"""The inputs of a step that a plan gives, beside the optimizer's factors."""


class Member(NamedTuple):
    """A client that is trained with others.

    Attributes:
        context: draws its batches.
        samples: what it trains on.
        optimizer: its own, with the state of an earlier round.
    """

    context: Context
    samples: TensorSamples
    optimizer: Optimizer


class Plan(NamedTuple):
    """Who uses which samples when.

    Attributes:
        rows: numbers of samples, int64 (steps, clients, batch size); what is padded repeats a batch's first sample.
        sizes: numbers of samples in the batches, int64 (steps, clients); 0: the client has no such step.
        counts: of each step, how many clients have it: the first ones.
        steps: number of each client's steps.
        epochs: number of steps in each client's last and in its first epoch.
    """

    rows: Tensor
    sizes: Tensor
    counts: list[int]
    steps: list[int]
    epochs: list[tuple[int, int]]


def plan(members: Sequence[Member]) -> Plan:
    """Draw each client's batches as it would alone.

    Args:
        members: the clients, those with the most steps first. Their samples will lie one client's behind the other's.
    """
    drawn: list[list[tuple[Tensor, ...]]] = []
    start = 0
    for context, samples, _ in members:
        epochs = [context.parts(samples) for _ in range(context.epochs)]
        drawn.append([tuple(part + start for part in parts) for parts in epochs])
        start += len(samples)
    steps = [sum(len(parts) for parts in epochs) for epochs in drawn]
    width = max(len(epochs[0][0]) for epochs in drawn)
    rows = torch.zeros((steps[0], len(drawn), width), dtype=torch.int64)
    sizes = torch.zeros((steps[0], len(drawn)), dtype=torch.int64)
    for client, epochs in enumerate(drawn):
        begin = 0
        for parts in epochs:
            end = begin + len(parts)
            # Only the last batch of an epoch is smaller than the others.
            padding = parts[-1][:1].expand(width - len(parts[-1]))
            rows[begin:end, client] = torch.cat([*parts, padding]).view(len(parts), width)
            sizes[begin:end, client] = width
            sizes[end - 1, client] = len(parts[-1])
            begin = end
    counts = (sizes > 0).sum(1).tolist()
    return Plan(rows, sizes, counts, steps, [(len(epochs[-1]), len(epochs[0])) for epochs in drawn])


class Trained:
    """What a training has brought.

    Args:
        values: the parameters of all clients by name, each (clients, ...).
        losses: before each step (steps, clients).
        drawn: who makes which step.
        optimizer: of all clients.
        made: how many steps there was time for.
        repeated: has made them.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        losses: Tensor,
        drawn: Plan,
        optimizer: stacked.Rows,
        made: int,
        *,
        repeated: Repeated,
    ) -> None:
        self._values = values
        self._made = made
        self._totals = losses.double().cpu() * drawn.sizes
        self._plan = drawn
        self.optimizer = optimizer
        self.clients = len(drawn.steps)
        self.replayed, self.fault = repeated.replayed, repeated.fault

    def parameters(self, row: int) -> dict[str, Tensor]:
        """Return a client's parameters by name."""
        return {name: values[row] for name, values in self._values.items()}

    def has_ended(self, row: int) -> bool:
        """Return whether a client has made all its steps."""
        return self._plan.steps[row] <= self._made

    def is_finite(self, row: int) -> bool:
        """Return whether all losses of a client are finite."""
        return bool(torch.isfinite(self._totals[: self._plan.steps[row], row]).all())

    def metrics(self, row: int) -> dict[str, float]:
        """Return a client's metrics, as `loop.train` does."""
        steps, (last, first) = self._plan.steps[row], self._plan.epochs[row]
        return {
            "loss": self._mean(row, steps - last, steps),
            "first_epoch_loss": self._mean(row, 0, first),
            "steps": float(steps),
        }

    def _mean(self, row: int, begin: int, end: int) -> float:
        return float(self._totals[begin:end, row].sum() / self._plan.sizes[begin:end, row].sum())


def train(
    ours: Learner, model: nn.Module, members: Sequence[Member], order: Train, recorder: Recorder | None = None
) -> Trained:
    """Train all clients from the model's parameters. The model is left as it was, and the optimizers have no state.

    At the deadline, only those that have made all their steps have ended.

    Args:
        ours: predicts.
        model: has the round's weights.
        members: the clients, those with the most steps first.
        order: of one of them; it says how all are trained.
        recorder: records a step, so that others with as many clients are replayed; None: none is recorded.

    Raises:
        NotStackable: there is no optimizer for several clients, a state is of different ages, or the loss does not
            depend on some parameter.
    """
    context, drawn = members[0].context, plan(members)
    optimizer = stacked.make([member.optimizer for member in members], drawn.steps)
    like = list(optimizers.parameters_of(members[0].optimizer))
    for member in members:
        member.optimizer.state.clear()  # its memory is needed now
    program = _Program(ours, model, like, order)
    values = torch.cat([each.detach().flatten() for each in like]).repeat(len(members), 1)
    step = _Step(program, optimizer, values, _joined(members, context.device, values.dtype))
    tables = {ROWS: drawn.rows.to(context.device), SIZES: drawn.sizes.to(context.device), **optimizer.factors}
    found = torch.zeros(drawn.sizes.shape, dtype=values.dtype, device=context.device)
    alike = collections.Counter(drawn.counts)
    model.train()
    made = 0
    state = [values, *optimizer.states.values()]
    with contextlib.closing(Repeated(step, state, recorder, program.numbers)) as repeated:
        for count in drawn.counts:
            try:
                context.before_batch()
            except LeaseOver:
                break
            inputs = {name: table[made, :count] for name, table in tables.items()}
            found[made, :count] = repeated.do(inputs, alike[count])
            made += 1
    return Trained(program.shaped(values), found, drawn, optimizer, made, repeated=repeated)


class _Step:
    """A step of the first clients: their parameters follow the gradients of their losses on the step's samples."""

    def __init__(
        self, program: "_Program", optimizer: stacked.Rows, values: Tensor, samples: tuple[Tensor, ...]
    ) -> None:
        self._program, self._optimizer, self._values, self._samples = program, optimizer, values, samples

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the losses before the step (clients,)."""
        rows = inputs[ROWS]
        values = self._values[: len(rows)]
        batch = tuple(_taken(part, rows) for part in self._samples)
        gradients, losses = self._program.gradients(values, batch, inputs[SIZES])
        self._optimizer.step(values, gradients, inputs)
        return losses


class _Program:
    """Computes the gradients of several clients at once."""

    def __init__(self, ours: Learner, model: nn.Module, like: Sequence[Tensor], order: Train) -> None:
        by_id = {id(parameter): name for name, parameter in model.named_parameters()}
        self._names = [by_id[id(parameter)] for parameter in like]
        self._learner, self._model, self._like = ours, model, like
        self._loss = losses.of_each(order.training)  # type: ignore[arg-type]
        self._strategy = self._started(order)
        self._predict = torch.func.vmap(self._predict_one, randomness="error")
        self._is_checked = False

    def gradients(self, values: Tensor, batch: tuple[Tensor, ...], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients (clients, numbers) of each client's loss, and the losses (clients,).

        Args:
            values: the parameters (clients, numbers).
            batch: the samples (clients, batch size, ...).
            sizes: how many samples of each client's batch count (clients,).
        """
        leaf = values.detach().requires_grad_()
        parts = self.shaped(leaf)
        outputs = self._predict(parts, batch)
        clients, width = batch[-1].shape[:2]
        each = self._loss(outputs.flatten(0, 1), batch[-1].flatten(0, 1)).view(clients, width)
        counts = torch.arange(width, device=each.device) < sizes[:, None]
        means = torch.where(counts, each, 0.0).sum(1) / sizes
        if not self._is_checked:
            self._check(means.sum(), parts)
        (gradients,) = torch.autograd.grad(means.sum(), leaf)
        if self._strategy is not None:
            self._correct(gradients, values)
        return gradients, means.detach()

    def _check(self, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Torch's optimizers leave alone what has no gradient, and ours would let it decay."""
        found = torch.autograd.grad(loss, list(parts.values()), retain_graph=True, allow_unused=True)
        if unused := [name for name, each in zip(parts, found) if each is None]:  # noqa: B905 (equally long)
            raise stacked.NotStackable(f"the loss does not depend on {unused[0]}")
        self._is_checked = True

    def _predict_one(self, parameters: Mapping[str, Tensor], batch: tuple[Tensor, ...]) -> Any:
        def model(*inputs: Any) -> Any:
            return torch.func.functional_call(self._model, dict(parameters), inputs)

        return self._learner.predict(model, batch)[0]

    def numbers(self) -> list[dict[str, Any]]:
        """Return the model's own numbers and texts. A model that counts its calls may do so for a reason."""
        kinds = (bool, int, float, str)
        return [
            {name: value for name, value in vars(part).items() if isinstance(value, kinds)}
            for part in self._model.modules()
        ]

    def shaped(self, values: Tensor) -> dict[str, Tensor]:
        """Return parameters or gradients (clients, numbers) by name, each (clients, ...)."""
        parts = torch.split(values, [each.numel() for each in self._like], dim=1)
        shaped = zip(self._names, parts, self._like)  # noqa: B905 (equally long)
        return {name: part.reshape(len(values), *like.shape) for name, part, like in shaped}

    def _started(self, order: Train) -> ClientStrategy | None:
        strategy = strategies.make(order.strategy)
        if not strategy.changes_gradients:
            return None
        strategy.start(self._model, {}, {})
        return strategy

    @torch.no_grad()
    def _correct(self, gradients: Tensor, values: Tensor) -> None:
        strategy, moved = cast("ClientStrategy", self._strategy), self.shaped(values)
        for name, part in self.shaped(gradients).items():
            part.add_(strategy.correction(name, cast("nn.Parameter", moved[name])))


def _joined(members: Sequence[Member], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the samples of all clients, one client's behind the other's."""
    columns = zip(*(member.samples.named.values() for member in members))  # noqa: B905 (checked before)
    placed: tuple[Tensor, ...] = batches.place(tuple(torch.cat(column) for column in columns), device, dtype)
    return placed


def _taken(samples: Tensor, rows: Tensor) -> Tensor:
    """Return samples by their numbers (clients, batch size), as (clients, batch size, ...)."""
    return samples.index_select(0, rows.flatten()).view(*rows.shape, *samples.shape[1:])
