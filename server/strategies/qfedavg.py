"""q-FedAvg, the server's half (Li et al. 2020, arXiv 1905.10497, algorithm 2).

With F_i for the loss of the round's model on client i's samples, and L for one over the round's learning rate: the
change d_i counts by `F_i^q`, and the sum is divided by `sum(q F_i^(q-1) L |d_i|^2 + F_i^q)`.
"""

import math
from typing import Final

import numpy as np

from broker.messages.job_record import JobRecord
from broker.messages.tensors import Tensors
from broker.messages.update import UpdateHeader
from server import training
from server.errors import Refused
from server.strategies.base import Finished, GlobalState, ModelInfo, Strategy

LOSS: Final = "global_loss"
"""The metric of an update that is the loss of the round's model on the client's samples, before the training."""

_REFERENCE: Final = "loss"
"""The server state with the largest loss of the last round: losses are divided by it, so that powers stay small."""

_LEAST: Final = 1e-10
"""Is added to each loss: a power of 0 has no value."""


class QFedAvg(Strategy):
    """Clients with a larger loss count more. With q = 0 all count equally."""

    needs = (LOSS,)
    needs_norms = True

    def init(self, model: ModelInfo) -> GlobalState:
        """Implements `Strategy.init`."""
        state = super().init(model)
        return GlobalState(state.weights, {**state.server_state, _REFERENCE: np.ones((), np.float64)})

    def scale(self, header: UpdateHeader, record: JobRecord, state: Tensors) -> float:  # noqa: ARG002
        """Implements `Strategy.scale`."""
        if header.metrics[LOSS] < 0:
            reason = f"its {LOSS} is {header.metrics[LOSS]:g}: this strategy needs a loss of at least 0"
            raise Refused("strategy", reason)
        return float((_loss(header) / float(state[_REFERENCE])) ** self.parameters.q)

    def step(self, state: GlobalState, finished: Finished) -> tuple[Tensors, Tensors]:  # noqa: ARG002
        """Implements `Strategy.step`."""
        divisor = math.fsum(self._divisor(client, finished) for client in sorted(finished.headers))
        ratio, names = len(finished.headers) / divisor, finished.model.weights
        weights = {name: finished.stepped(name, finished.change(name) * ratio) for name in names}
        largest = max(_loss(header) for header in finished.headers.values())
        return weights, {_REFERENCE: np.asarray(largest, np.float64)}

    def _divisor(self, client: str, finished: Finished) -> float:
        """Return a client's part of the divisor, scaled as its change is."""
        share, loss = finished.shares[client], _loss(finished.headers[client])
        # The rules of the job refuse different rates at different clients.
        rate = training.training_of(finished.record.cohort[0], finished.record).rate or 1.0
        q = float(self.parameters.q)
        norm = share.norm * share.clip / share.scale
        return share.scale * (q / loss * norm**2 / rate + 1.0)


def _loss(header: UpdateHeader) -> float:
    return header.metrics[LOSS] + _LEAST
