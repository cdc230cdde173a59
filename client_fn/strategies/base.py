"""The base of the strategies' client halves."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


class Outcome(NamedTuple):
    """What a strategy sends back beside the trained model.

    Attributes:
        states: the client's states by name, each with its tensors. The client's next task brings those of its last
            counted update.
        aux: tensors that the server adds up like the model's. In the update their names begin with `aux.`.
    """

    states: Mapping[str, Tensors]
    aux: Tensors


class ClientStrategy:
    """A strategy's client half, for one training. This one changes nothing in it.

    A strategy with a half of its own overrides what it needs: first `start` is called, then `correction` before the
    optimizers' steps, last `finish`.

    Args:
        parameters: the strategy's parameters by name. Those of the server's half are among them.

    Attributes:
        steps: how many optimizer steps each parameter of the module has had, by its name. They are counted only if
            `changes_gradients` is true.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = parameters
        self.steps: Counter[str] = Counter()

    @property
    def changes_gradients(self) -> bool:
        """Whether `correction` is to be added to the gradients."""
        return False

    def start(self, module: nn.Module, states: Mapping[str, Tensors], along: Tensors) -> None:
        """Prepare for a training.

        Args:
            module: the module to train, with the round's weights.
            states: the client's states by name; a client's first task brings none.
            along: what the server's half sends along.
        """

    def correction(self, name: str, parameter: nn.Parameter) -> Tensor:  # noqa: ARG002 (of use in subclasses)
        """Return what is to be added to a parameter's gradient before a step, as a new tensor. Here it is zero.

        Args:
            name: the parameter's name in the module.
            parameter: as the step will find it; it has a gradient.
        """
        return torch.zeros_like(parameter)

    def finish(self, module: nn.Module) -> Outcome:  # noqa: ARG002 (of use in subclasses)
        """Return the states and tensors that go back to the server.

        Args:
            module: the trained module.
        """
        return Outcome({}, {})
