"""Means over all clients that hold a job's data, of changes that only those of a round's cohort send.

What all clients have sent is kept as a sum, and divided when it goes along with the tasks: clients that register later
count in full, and their part is zero until they take part. A client that has left still counts, as its part does.
"""

from typing import Final

import numpy as np

from broker.messages.tensors import Array, Tensors
from server.strategies.base import Finished, GlobalState

_CLIENTS: Final = "clients"
"""The server state with the largest number of clients that have held the data in a round: one int64."""


def mean(state: GlobalState, prefix: str) -> Tensors:
    """Return the means by the weights' names, as tasks bring them; none before the first round.

    Args:
        state: the global state.
        prefix: begins the names of the sums in the server state.
    """
    sums = {name: value for name, value in state.server_state.items() if name.startswith(prefix)}
    return {
        name.removeprefix(prefix): np.asarray(value / state.server_state[_CLIENTS], np.float32)
        for name, value in sums.items()
    }


def added(state: GlobalState, finished: Finished, prefix: str, changes: Tensors) -> Tensors:
    """Return the server state after a round: the sums, and the number of clients.

    Args:
        state: the state before the round.
        finished: the round.
        prefix: begins the names of the sums.
        changes: the mean change over the clients that took part, float64, by the weights' names.
    """
    count = len(finished.headers)
    clients = max(int(state.server_state.get(_CLIENTS, 0)), finished.record.holders, count)
    after: Tensors = {_CLIENTS: np.asarray(clients, np.int64)}
    for name, change in changes.items():
        before = state.server_state.get(f"{prefix}{name}", _ZERO).astype(np.float64)
        after[f"{prefix}{name}"] = np.asarray(before + count * change, np.float32)
    return after


_ZERO: Final[Array] = np.zeros(())
