"""Server optimizers: how one change of a weight, made of all updates, steps it. Each works on one tensor, in float64.

What an optimizer keeps of a tensor between rounds are its moments, which are stored as float32.
"""

from typing import Any, ClassVar, Protocol

import numpy as np

from broker.messages import strategy as messages
from broker.messages.tensors import Array


class Optimizer(Protocol):
    """A server optimizer.

    Args:
        parameters: the strategy of the job.

    Attributes:
        moments: names of what it keeps of each tensor.
    """

    moments: ClassVar[tuple[str, ...]]

    def __init__(self, parameters: Any) -> None: ...

    def initial(self, moment: str) -> float:
        """Return a moment's value before the first round."""

    def step(self, change: Array, moments: tuple[Array, ...], rounds: int) -> tuple[Array, tuple[Array, ...]]:
        """Return the step of a weight, and its moments after that, all float64.

        Args:
            change: the change that the updates ask for.
            moments: as the last round left them.
            rounds: number of rounds that are done.
        """


class Momentum:
    """`m = beta * m + change; w = w + rate * m` (Hsu et al. 2019, arXiv 1909.06335)."""

    moments: ClassVar[tuple[str, ...]] = ("m",)

    def __init__(self, parameters: messages.FedAvgM) -> None:
        self._of = parameters

    def initial(self, moment: str) -> float:  # noqa: ARG002
        """Implements `Optimizer.initial`."""
        return 0.0

    def step(self, change: Array, moments: tuple[Array, ...], rounds: int) -> tuple[Array, tuple[Array, ...]]:  # noqa: ARG002
        """Implements `Optimizer.step`."""
        m = self._of.beta * moments[0] + change
        return self._of.rate * m, (m,)


class Adagrad:
    """`v = v + change^2; w = w + rate * change / (sqrt(v) + tau)` (Reddi et al. 2021, arXiv 2003.00295)."""

    moments: ClassVar[tuple[str, ...]] = ("v",)

    def __init__(self, parameters: messages.FedAdagrad) -> None:
        self._of = parameters

    def initial(self, moment: str) -> float:  # noqa: ARG002
        """Implements `Optimizer.initial`."""
        return _v0(self._of)

    def step(self, change: Array, moments: tuple[Array, ...], rounds: int) -> tuple[Array, tuple[Array, ...]]:  # noqa: ARG002
        """Implements `Optimizer.step`."""
        v = moments[0] + change**2
        return self._of.rate * change / (np.sqrt(v) + self._of.tau), (v,)


class Adam:
    """Moving averages m of the change and v of its square: `w = w + rate * m / (sqrt(v) + tau)` (ibid.)."""

    moments: ClassVar[tuple[str, ...]] = ("m", "v")

    def __init__(self, parameters: messages.FedAdam | messages.FedYogi) -> None:
        self._of = parameters

    def initial(self, moment: str) -> float:
        """Implements `Optimizer.initial`."""
        return _v0(self._of) if moment == "v" else 0.0

    def step(self, change: Array, moments: tuple[Array, ...], rounds: int) -> tuple[Array, tuple[Array, ...]]:
        """Implements `Optimizer.step`."""
        of = self._of
        m = of.beta1 * moments[0] + (1 - of.beta1) * change
        v = self._second(moments[1], change**2)
        return self._rate(rounds) * m / (np.sqrt(v) + of.tau), (m, v)

    def _second(self, v: Array, square: Array) -> Array:
        return self._of.beta2 * v + (1 - self._of.beta2) * square

    def _rate(self, rounds: int) -> float:
        of = self._of
        if not (isinstance(of, messages.FedAdam) and of.bias_correction):
            return of.rate
        # As Flower has it: in round r, counted from 1, with r + 1.
        steps = rounds + 2
        return of.rate * float(np.sqrt(1 - of.beta2**steps)) / (1 - of.beta1**steps)


class Yogi(Adam):
    """Adam whose `v` moves towards the square by a step of its own size, up or down (ibid.)."""

    def _second(self, v: Array, square: Array) -> Array:
        return np.asarray(v - (1 - self._of.beta2) * square * np.sign(v - square))


def _v0(of: messages.FedAdagrad | messages.FedAdam | messages.FedYogi) -> float:
    return of.tau * of.tau if of.v0 is None else of.v0
