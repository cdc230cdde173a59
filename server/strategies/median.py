"""Coordinate-wise median (Yin et al. 2018, arXiv 1803.01498): one client can't move a weight further than others do."""

import numpy as np

from broker.messages.tensors import Array
from server.strategies.base import Finished, GlobalState, ReplayStrategy


class Median(ReplayStrategy):
    """Each element of a weight takes the median of the updates, unweighted. Buffers and counters as in FedAvg."""

    def reduce(self, values: Array) -> Array:
        """Implements `ReplayStrategy.reduce`: the middle value, or the mean of the middle two."""
        count = len(values)
        middle = np.partition(values, (count // 2, (count - 1) // 2), axis=0)
        return np.asarray((middle[count // 2] + middle[(count - 1) // 2]) / 2)

    def apply(self, state: GlobalState, finished: Finished) -> GlobalState:
        """Implements `Strategy.apply`."""
        medians = {name: finished.reduced(name, value) for name, value in finished.replayed.items()}
        return GlobalState({**state.weights, **finished.averaged(), **medians})
