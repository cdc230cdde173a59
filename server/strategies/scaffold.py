"""SCAFFOLD, the server's half (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1 with option II).

`c` is the control of all clients, `c_i` that of each, which it keeps itself as a named state. Clients correct each
gradient by `c - c_i`; `client_fn/strategies/scaffold.py` is their half.
"""

import numpy as np

from broker.messages.tensors import Tensors
from server.strategies import everyone
from server.strategies.base import AUXILIARY, Finished, GlobalState, ModelInfo, Strategy

_CONTROL = "c."


class Scaffold(Strategy):
    """`w = w + rate * mean(dw); c = c + sum(dc) / N`, where N is the number of all clients that hold the data."""

    def auxiliary(self, model: ModelInfo) -> Tensors:
        """Implements `Strategy.auxiliary`: the change of the client's control, as large as the model."""
        return {f"{AUXILIARY}{name}": np.zeros_like(model.tensors[name]) for name in model.weights}

    def along(self, state: GlobalState) -> Tensors:
        """Implements `Strategy.along`: the control; none before the first round, when it is zero."""
        return everyone.mean(state, _CONTROL)

    def step(self, state: GlobalState, finished: Finished) -> tuple[Tensors, Tensors]:
        """Implements `Strategy.step`."""
        names, rate = finished.model.weights, self.parameters.rate
        weights = {name: finished.stepped(name, rate * finished.change(name)) for name in names}
        changes = {name: finished.mean[f"{AUXILIARY}{name}"] for name in names}
        return weights, everyone.added(state, finished, _CONTROL, changes)
