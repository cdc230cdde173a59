"""FedDyn, the server's half (Acar et al. 2021, arXiv 2111.04263, algorithm 1).

The paper's server keeps h and sends `w = mean(y_i) - h / alpha`. The mean is the better model, so it is the global
model here, which is evaluated and which users get; `-h / alpha`, the offset, goes along with each task, and clients
start from the sum of both. `client_fn/strategies/feddyn.py` is their half.
"""

from broker.messages.tensors import Tensors
from server.strategies import everyone
from server.strategies.base import Finished, GlobalState, Strategy

_OFFSET = "offset."


class FedDyn(Strategy):
    """`h = h - alpha / N * sum(y_i - w)`, where N is the number of all clients that hold the data."""

    def along(self, state: GlobalState) -> Tensors:
        """Implements `Strategy.along`: the offset; none before the first round, when it is zero."""
        return everyone.mean(state, _OFFSET)

    def step(self, state: GlobalState, finished: Finished) -> tuple[Tensors, Tensors]:
        """Implements `Strategy.step`. Weights are simply averaged; the offset follows from their change."""
        offset = self.along(state)
        # The clients started from the model and the offset.
        moved = {name: finished.change(name) - offset.get(name, 0.0) for name in finished.model.weights}
        return {}, everyone.added(state, finished, _OFFSET, moved)
