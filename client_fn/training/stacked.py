"""Optimizers over the parameters of several clients at once: one row for each client.

Torch's optimizers count the steps of a tensor. Here each row has a count of its own, because carried states are of
different ages. The formulas are those of torch's `SGD`, `Adam` and `NAdam`; what they compute from the count alone is
computed before the first step, for all steps.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, NAdam, Optimizer

from client_fn.training.optimizers import parameters_of

_DECAY: Final = 0.96
"""Of NAdam's momentum (Dozat, 2016, section 3; torch has the number in its code)."""


class NotStackable(Exception):
    """Raised when clients can't train in one program. The text says why."""


class Rows(abc.ABC):
    """The base of the optimizers: states (clients, numbers) by name, and factors (steps, clients) by name.

    Args:
        optimizers: each client's own, of one class with equal settings, perhaps with the state of an earlier round.
        steps: how many steps each client will make; none makes more than the one before it.

    Raises:
        NotStackable: an optimizer's parameters are of different ages or have different settings.
    """

    names: tuple[str, ...] = ()

    def __init__(self, optimizers: Sequence[Optimizer], steps: Sequence[int]) -> None:
        if len(optimizers[0].param_groups) != 1:
            raise NotStackable("the optimizer has several groups of parameters")
        self.settings: dict[str, Any] = optimizers[0].param_groups[0]
        self.steps = steps
        parameters = list(parameters_of(optimizers[0]))
        self._shapes = [parameter.shape for parameter in parameters]
        self._sizes = [parameter.numel() for parameter in parameters]
        self._like = parameters[0]
        self.states = {name: self._stacked(optimizers, name) for name in self.names}
        self.factors = {
            name: torch.from_numpy(table).to(self._like.device, self._like.dtype)
            for name, table in self._tables(optimizers).items()
        }

    @torch.no_grad()
    def step(self, values: Tensor, gradients: Tensor, factors: Mapping[str, Tensor]) -> None:
        """Make one step of the first clients, in place. A recorded step finds everything at its place again.

        Args:
            values: their parameters (clients, numbers).
            gradients: of the same shape; they are overwritten.
            factors: the step's row of each table in `factors`, for these clients (clients,).
        """
        count = len(values)
        if self.settings["maximize"]:
            gradients.neg_()
        if decay := self.settings["weight_decay"]:
            if self.settings.get("decoupled_weight_decay"):
                values.mul_(1 - self.settings["lr"] * decay)
            else:
                gradients.add_(values, alpha=decay)
        states = {name: state[:count] for name, state in self.states.items()}
        self._move(values, gradients, states, {name: factors[name][:, None] for name in self.factors})

    def store(self, client: int, optimizer: Optimizer) -> None:
        """Give a client's own optimizer the state after its last step.

        Args:
            client: number of its row.
            optimizer: its optimizer.
        """
        rows = {name: torch.split(state[client], self._sizes) for name, state in self.states.items()}
        for index, parameter in enumerate(parameters_of(optimizer)):
            own = {name: parts[index].reshape(self._shapes[index]) for name, parts in rows.items()}
            optimizer.state[parameter] = {**self._counters(client), **own}

    @abc.abstractmethod
    def _move(self, values: Tensor, gradients: Tensor, states: dict[str, Tensor], factors: dict[str, Tensor]) -> None:
        """Move values along gradients, and bring the states up to date."""

    @abc.abstractmethod
    def _tables(self, optimizers: Sequence[Optimizer]) -> dict[str, np.ndarray[Any, Any]]:
        """Return the factors by name, float64 (steps, clients)."""

    def _counters(self, client: int) -> dict[str, Any]:  # noqa: ARG002 (of use in subclasses)
        """Return what a state holds for each parameter beside tensors of its shape."""
        return {}

    def _stacked(self, optimizers: Sequence[Optimizer], name: str) -> Tensor:
        rows = [_row(optimizer, name) for optimizer in optimizers]
        empty = self._like.new_zeros(sum(self._sizes))
        return torch.stack([empty if row is None else row for row in rows]).detach()


class StackedSGD(Rows):
    """SGD with momentum, dampening, Nesterov's momentum and weight decay."""

    def __init__(self, optimizers: Sequence[Optimizer], steps: Sequence[int]) -> None:
        has_momentum = bool(optimizers[0].param_groups[0]["momentum"])
        self.names = ("momentum_buffer",) if has_momentum else ()
        super().__init__(optimizers, steps)

    def _tables(self, optimizers: Sequence[Optimizer]) -> dict[str, np.ndarray[Any, Any]]:
        if not self.names:
            return {}
        shape = (self.steps[0], len(self.steps))
        keep, take = np.full(shape, self.settings["momentum"]), np.full(shape, 1.0 - self.settings["dampening"])
        for client, optimizer in enumerate(optimizers):
            if _row(optimizer, "momentum_buffer") is None:
                # The first gradient is the first buffer, whatever the dampening is.
                keep[0, client], take[0, client] = 0.0, 1.0
        return {"keep": keep, "take": take}

    def _move(self, values: Tensor, gradients: Tensor, states: dict[str, Tensor], factors: dict[str, Tensor]) -> None:
        if self.names:
            buffer = states["momentum_buffer"]
            buffer.mul_(factors["keep"]).addcmul_(gradients, factors["take"])
            if self.settings["nesterov"]:
                gradients.add_(buffer, alpha=self.settings["momentum"])
            else:
                gradients = buffer
        values.add_(gradients, alpha=-self.settings["lr"])


class StackedAdam(Rows):
    """Adam, with weight decay and AMSGrad."""

    names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def __init__(self, optimizers: Sequence[Optimizer], steps: Sequence[int]) -> None:
        self.ages = [_age(optimizer) for optimizer in optimizers]
        if optimizers[0].param_groups[0].get("amsgrad"):
            self.names = (*self.names, "max_exp_avg_sq")
        super().__init__(optimizers, steps)

    def _tables(self, optimizers: Sequence[Optimizer]) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ARG002
        first, second = self.settings["betas"]
        counts = _counts(self.ages, self.steps[0])
        root = np.sqrt(1 - second**counts)
        # Both sides of the quotient are multiplied by the root: that is one product less for each number.
        return {"by_average": -self.settings["lr"] * root / (1 - first**counts), "eps": self.settings["eps"] * root}

    def _counters(self, client: int) -> dict[str, Any]:
        age = torch.tensor(float(self.ages[client] + self.steps[client]), dtype=torch.float32)
        return {"step": age.to(self._like.device) if self.settings.get("fused") else age}

    def _move(self, values: Tensor, gradients: Tensor, states: dict[str, Tensor], factors: dict[str, Tensor]) -> None:
        squares = self._follow(gradients, states)
        if "max_exp_avg_sq" in states:
            squares = torch.maximum(states["max_exp_avg_sq"], squares, out=states["max_exp_avg_sq"])
        divisor = squares.sqrt().add_(factors["eps"])
        values.addcdiv_(states["exp_avg"] * factors["by_average"], divisor)

    def _follow(self, gradients: Tensor, states: dict[str, Tensor]) -> Tensor:
        """Bring the two moments up to date, and return the second."""
        first, second = self.settings["betas"]
        states["exp_avg"].lerp_(gradients, 1 - first)
        return states["exp_avg_sq"].mul_(second).addcmul_(gradients, gradients, value=1 - second)


class StackedNAdam(StackedAdam):
    """Adam with Nesterov's momentum."""

    def _tables(self, optimizers: Sequence[Optimizer]) -> dict[str, np.ndarray[Any, Any]]:
        (first, second), rate, decay = (self.settings[name] for name in ("betas", "lr", "momentum_decay"))
        counts = _counts(self.ages, self.steps[0])
        now = first * (1 - 0.5 * _DECAY ** (counts * decay))
        then = first * (1 - 0.5 * _DECAY ** ((counts + 1) * decay))
        # Torch keeps the product in float32, whatever the parameters are.
        products = np.cumprod(
            np.concatenate([np.array([[_product(each) for each in optimizers]], np.float32), now.astype(np.float32)]),
            axis=0,
            dtype=np.float32,
        )
        self._products = products
        product, root = products[1:].astype(np.float64), np.sqrt(1 - second**counts)
        return {
            "by_gradient": -rate * root * (1 - now) / (1 - product),
            "by_average": -rate * root * then / (1 - product * then),
            "eps": self.settings["eps"] * root,
        }

    def _counters(self, client: int) -> dict[str, Any]:
        product = torch.tensor(float(self._products[self.steps[client], client]), dtype=torch.float32)
        return {**super()._counters(client), "mu_product": product}

    def _move(self, values: Tensor, gradients: Tensor, states: dict[str, Tensor], factors: dict[str, Tensor]) -> None:
        squares = self._follow(gradients, states)
        divisor = squares.sqrt().add_(factors["eps"])
        moved = gradients.mul_(factors["by_gradient"]).addcmul_(states["exp_avg"], factors["by_average"])
        values.addcdiv_(moved, divisor)


CLASSES: Final[dict[type[Optimizer], type[Rows]]] = {SGD: StackedSGD, Adam: StackedAdam, NAdam: StackedNAdam}


def make(optimizers: Sequence[Optimizer], steps: Sequence[int]) -> Rows:
    """Return one optimizer for the clients.

    Args:
        optimizers: each client's own.
        steps: how many steps each client will make; none makes more than the one before it.

    Raises:
        NotStackable: there is none for their class, or a client's state has parts of different ages.
    """
    class_ = type(optimizers[0])
    if class_ not in CLASSES:
        raise NotStackable(f"the optimizer is {class_.__name__}")
    return CLASSES[class_](optimizers, steps)


def _counts(ages: Sequence[int], steps: int) -> np.ndarray[Any, Any]:
    """Return the number of each step in its client's count, float64 (steps, clients)."""
    return np.arange(1, steps + 1, dtype=np.float64)[:, None] + np.array(ages, dtype=np.float64)


def _values(optimizer: Optimizer, name: str) -> list[Any]:
    """Return what the parameters' states have under a name; empty: none has it."""
    found = [optimizer.state[p].get(name) if p in optimizer.state else None for p in parameters_of(optimizer)]
    missing = sum(value is None for value in found)
    if missing not in (0, len(found)):
        raise NotStackable(f"the optimizer has {name} for some parameters only")
    return [] if missing else found


def _row(optimizer: Optimizer, name: str) -> Tensor | None:
    found = _values(optimizer, name)
    return torch.cat([value.flatten() for value in found]) if found else None


def _age(optimizer: Optimizer) -> int:
    """Return how many steps an optimizer has made."""
    return int(_only(optimizer, "step", 0.0))


def _product(optimizer: Optimizer) -> float:
    return _only(optimizer, "mu_product", 1.0)


def _only(optimizer: Optimizer, name: str, default: float) -> float:
    found = {float(value) for value in _values(optimizer, name)}
    if len(found) > 1:
        raise NotStackable(f"the parameters have different {name} in the optimizer's state")
    return found.pop() if found else default
