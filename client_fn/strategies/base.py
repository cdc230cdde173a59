"""The base of the strategies' client halves."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from client_fn.errors import TrainingFailed

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

    A strategy with a half of its own overrides what it needs: first `start` is called, then `check` and `correction`
    before the optimizers' steps, last `finish`.

    Args:
        parameters: the strategy's parameters by name. Those of the server's half are among them.

    Attributes:
        needs_loss: whether the loss of the round's model on the client's samples must be measured before the training.
        names_tensors: whether the tensors that go in and out have the names of the module's parameters.
        steps: how many optimizer steps each parameter of the module has had, by its name. They are counted only if
            `changes_gradients` is true.
        rates: the sum of the learning rates of these steps.
    """

    needs_loss: ClassVar[bool] = False
    names_tensors: ClassVar[bool] = False

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = parameters
        self.steps: Counter[str] = Counter()
        self.rates: defaultdict[str, float] = defaultdict(float)

    @property
    def changes_gradients(self) -> bool:
        """Whether `correction` is to be added to the gradients."""
        return False

    def start(self, module: nn.Module, states: Mapping[str, Tensors], along: Tensors) -> None:
        """Prepare for a training.

        Args:
            module: the module to train, with the round's weights. It may be changed.
            states: the client's states by name; a client's first task brings none.
            along: what the server's half sends along.
        """

    def check(self, optimizer: Optimizer) -> None:
        """Check that an optimizer that is about to step is one that the strategy is right for. Here all are.

        Args:
            optimizer: holds parameters of the module.

        Raises:
            TrainingFailed: it is not.
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


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module that are trained, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def ended(module: nn.Module, start: Tensors) -> dict[str, Tensor]:
    """Return the parameters of a module after the training, detached.

    Args:
        module: the trained module.
        start: what is wanted, by name, as it was before.

    Raises:
        TrainingFailed: the training has taken one away, or changed its shape.
    """
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    for name, before in start.items():
        if name not in parameters or parameters[name].shape != before.shape:
            raise TrainingFailed(f"the training must keep the model's parameters, now {name} is gone or another one")
    return {name: parameters[name].to(before.device) for name, before in start.items()}


def like(state: Tensor | None, parameter: nn.Parameter) -> Tensor:
    """Return a state of a parameter, of its shape and on its device; zeros if there is none.

    It is at least float32: what is added up over many rounds needs more bits than a step.

    Args:
        state: the state, on any device.
        parameter: the parameter.
    """
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros_like(parameter, dtype=dtype) if state is None else state.to(parameter.device, dtype)


def on_cpu(tensors: Tensors) -> dict[str, Tensor]:
    """Return tensors as files can hold them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
