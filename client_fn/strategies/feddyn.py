"""FedDyn: aligns the clients' objectives by a regulariser that changes (Acar et al., 2021, arXiv:2111.04263)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from client_fn.errors import TrainingFailed
from client_fn.strategies.base import ClientStrategy, Outcome, Tensors, ended, like, on_cpu, trained

_STATE = "feddyn"


class FedDyn(ClientStrategy):
    """Adds `alpha * (y - w) - g_i` to each gradient; w is the round's model and the offset that is sent along.

    The training starts from w. g_i is the client's own and stays with it; at the end it is `g_i - alpha * (y - w)`.

    Args:
        parameters: `alpha`, above 0.
    """

    names_tensors: ClassVar[bool] = True

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._alpha = float(parameters["alpha"])
        self._start: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}

    @property
    def changes_gradients(self) -> bool:
        """Implements `ClientStrategy.changes_gradients`."""
        return True

    @torch.no_grad()
    def start(self, module: nn.Module, states: Mapping[str, Tensors], along: Tensors) -> None:
        """Implements `ClientStrategy.start`."""
        own = states.get(_STATE, {})
        for name, parameter in trained(module).items():
            parameter.add_(like(along.get(name), parameter))
            self._start[name] = parameter.detach().clone()
            self._own[name] = like(own.get(name), parameter)

    def correction(self, name: str, parameter: nn.Parameter) -> Tensor:
        """Implements `ClientStrategy.correction`."""
        if name not in self._start:
            raise TrainingFailed(f"strategy 'feddyn' met {name}, which was frozen when the training began")
        own = self._own[name]
        moved = (parameter.detach() - self._start[name]).to(own.dtype)
        return moved.mul_(self._alpha).sub_(own).to(parameter.dtype)

    def finish(self, module: nn.Module) -> Outcome:
        """Implements `ClientStrategy.finish`."""
        own = {}
        for name, end in ended(module, self._start).items():
            moved = (end - self._start[name]).to(self._own[name].dtype)
            own[name] = self._own[name] - moved.mul_(self._alpha)
        return Outcome({_STATE: on_cpu(own)}, {})
