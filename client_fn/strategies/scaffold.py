"""SCAFFOLD: corrects a client's drift (Karimireddy et al., 2020, arXiv:1910.06378, option II)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from client_fn.errors import TrainingFailed
from client_fn.strategies.base import ClientStrategy, Outcome, Tensors, ended, like, on_cpu, trained

_STATE = "scaffold"


class Scaffold(ClientStrategy):
    """Adds `c - c_i` to each gradient, where c is all clients' control and c_i this client's own.

    After K steps of rate r the client's control is `c_i - c + (w - y) / (K r)`. It stays with the client, and its
    change goes to the server.
    """

    names_tensors: ClassVar[bool] = True

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._round: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}
        self._correction: dict[str, Tensor] = {}

    @property
    def changes_gradients(self) -> bool:
        """Implements `ClientStrategy.changes_gradients`."""
        return True

    def start(self, module: nn.Module, states: Mapping[str, Tensors], along: Tensors) -> None:
        """Implements `ClientStrategy.start`."""
        own = states.get(_STATE, {})
        for name, parameter in trained(module).items():
            self._round[name] = parameter.detach().clone()
            self._own[name] = like(own.get(name), parameter)
            self._correction[name] = like(along.get(name), parameter) - self._own[name]

    def check(self, optimizer: Optimizer) -> None:
        """Implements `ClientStrategy.check`: other optimizers' changes are no sums of rates times gradients."""
        kind = type(optimizer).__name__
        if isinstance(optimizer, SGD):
            if not any(group["momentum"] for group in optimizer.param_groups):
                return
            kind += " and momentum"
        raise TrainingFailed(f"strategy 'scaffold' needs plain SGD, and the learner trains with {kind}")

    def correction(self, name: str, parameter: nn.Parameter) -> Tensor:
        """Implements `ClientStrategy.correction`."""
        if name not in self._correction:
            raise TrainingFailed(f"strategy 'scaffold' met {name}, which was frozen when the training began")
        return self._correction[name].to(parameter.dtype, copy=True)

    def finish(self, module: nn.Module) -> Outcome:
        """Implements `ClientStrategy.finish`."""
        parameters, own, change = ended(module, self._round), {}, {}
        for name, before in self._round.items():
            if self.rates[name]:
                moved = (before - parameters[name]).to(self._own[name].dtype) / self.rates[name]
                change[name] = (moved - self._correction[name] - self._own[name]).to(before.dtype)
            else:
                change[name] = before.new_zeros(before.shape)  # no step has changed it
            # What was sent, rounded as it was: so the mean of all clients' controls stays the server's.
            own[name] = self._own[name] + change[name]
        return Outcome({_STATE: on_cpu(own)}, on_cpu(change))
