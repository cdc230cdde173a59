"""FedAdam: Adam on the server (Reddi et al. 2021, arXiv 2003.00295, algorithm 2; no bias correction)."""

import numpy as np

from broker.messages.tensors import Tensors
from server.strategies.base import Finished, GlobalState, Strategy


class FedAdam(Strategy):
    """`m` and `v` are moving averages of the mean change and its square; `w = w + rate * m / (sqrt(v) + tau)`.

    At first `m` is 0 and `v` is `tau^2`. Buffers and counters are averaged as in FedAvg.
    """

    def apply(self, state: GlobalState, finished: Finished) -> GlobalState:
        """Implements `Strategy.apply`."""
        of = self.parameters
        weights, moments = {**state.weights, **finished.averaged()}, Tensors()
        for name in finished.model.weights:
            change = finished.change(name)
            m = state.server_state.get(f"m.{name}", np.zeros(())).astype(np.float64)
            v = state.server_state.get(f"v.{name}", np.full((), of.tau * of.tau)).astype(np.float64)
            m = of.beta1 * m + (1 - of.beta1) * change
            v = of.beta2 * v + (1 - of.beta2) * change**2
            weights[name] = finished.stepped(name, of.rate * m / (np.sqrt(v) + of.tau))
            moments[f"m.{name}"], moments[f"v.{name}"] = m.astype(np.float32), v.astype(np.float32)
        return GlobalState(weights, moments)
