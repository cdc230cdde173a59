"""FedDyn, the server's half (Acar et al. 2021, arXiv 2111.04263, algorithm 1).

The paper's server keeps h and sends `w = mean(y_i) - h / alpha`. The mean is the better model, so it is the global
model here, which is evaluated and which users get; `-h / alpha`, the offset, goes along with each task, and clients
start from the sum of both. `client_fn/strategies/feddyn.py` is their half.
"""

import numpy as np

from broker.messages.tensors import Tensors
from server.strategies.base import Finished, GlobalState, Strategy

_OFFSET = "offset."


class FedDyn(Strategy):
    """`h = h - alpha / N * sum(y_i - w)`, where N is the number of all clients that hold the data."""

    def along(self, state: GlobalState) -> Tensors:
        """Implements `Strategy.along`: the offset; none before the first round, when it is zero."""
        names = (name for name in state.server_state if name.startswith(_OFFSET))
        return {name.removeprefix(_OFFSET): state.server_state[name] for name in names}

    def step(self, state: GlobalState, finished: Finished) -> tuple[Tensors, Tensors]:
        """Implements `Strategy.step`. Weights are simply averaged; the offset follows from their change."""
        offsets = Tensors()
        share = len(finished.headers) / max(finished.record.holders, len(finished.headers))
        for name in finished.model.weights:
            before = state.server_state.get(f"{_OFFSET}{name}", np.zeros(())).astype(np.float64)
            after = before + share * (finished.change(name) - before)
            offsets[f"{_OFFSET}{name}"] = after.astype(np.float32)
        return {}, offsets
