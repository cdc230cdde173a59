"""FedProx: keeps clients near the round's model (Li et al., 2020, arXiv:1812.06127)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from client_fn.strategies.base import ClientStrategy, Tensors, trained


class FedProx(ClientStrategy):
    """Adds `mu * (w - w0)` to the gradient of each trained parameter, where w0 is its value in the round's model.

    That is the gradient of `mu / 2 * |w - w0|^2`, which the paper adds to the loss. With `mu` 0 the training is that
    of FedAvg, bit for bit.

    Args:
        parameters: `mu`, 0 or more.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._mu = float(parameters["mu"])
        self._round: dict[str, Tensor] = {}

    @property
    def changes_gradients(self) -> bool:
        """Implements `ClientStrategy.changes_gradients`."""
        return self._mu > 0

    def start(self, module: nn.Module, states: Mapping[str, Tensors], along: Tensors) -> None:  # noqa: ARG002
        """Implements `ClientStrategy.start`."""
        self._round = {name: parameter.detach().clone() for name, parameter in trained(module).items()}

    def correction(self, name: str, parameter: nn.Parameter) -> Tensor:
        """Implements `ClientStrategy.correction`."""
        if name not in self._round:
            # It was frozen until now, so it still has the round's value.
            self._round[name] = parameter.detach().clone()
        return (parameter.detach() - self._round[name]).mul_(self._mu)
