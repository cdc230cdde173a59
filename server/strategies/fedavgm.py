"""FedAvgM: averaging with momentum on the server (Hsu et al. 2019, arXiv 1909.06335)."""

import numpy as np

from broker.messages.tensors import Tensors
from server.strategies.base import Finished, GlobalState, Strategy


class FedAvgM(Strategy):
    """`m = beta * m + mean change; w = w + rate * m`. Buffers and counters are averaged as in FedAvg."""

    def apply(self, state: GlobalState, finished: Finished) -> GlobalState:
        """Implements `Strategy.apply`."""
        beta, rate = self.parameters.beta, self.parameters.rate
        weights, momentum = {**state.weights, **finished.averaged()}, Tensors()
        for name in finished.model.weights:
            before = state.server_state.get(f"m.{name}", np.zeros(()))
            step = beta * before.astype(np.float64) + finished.change(name)
            weights[name] = finished.stepped(name, rate * step)
            momentum[f"m.{name}"] = step.astype(np.float32)
        return GlobalState(weights, momentum)
