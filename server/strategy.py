"""Strategies: how a finished round becomes the next global model, and what a client's task contains beyond the job.

A new strategy is a class here, an entry in STRATEGIES, and a struct in broker/messages/strategy.py. The
rounds, the gate and the aggregator do not depend on the strategy. A strategy's memory between rounds is tensors in
`server_state`; the server publishes them beside the model, so they survive a crash.
"""

from dataclasses import dataclass, field
from typing import Final, Protocol

from broker.messages.job import Job
from broker.messages.strategy import name_of
from broker.messages.tensors import Tensors


@dataclass(frozen=True, slots=True)
class GlobalState:
    """The global state of a job.

    Attributes:
        weights: every tensor of the global model.
        server_state: the strategy's own tensors, such as a server optimizer's momentum.
    """

    weights: Tensors
    server_state: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The result of a round.

    Attributes:
        round: number of the round.
        mean: exact mean of the counted updates, weighted by samples; only tensors that clients train.
        samples: sum of the updates' samples.
        updates: number of counted updates.
    """

    round: int
    mean: Tensors
    samples: int
    updates: int


class Strategy(Protocol):
    """The server's half of a strategy. Deterministic: two servers get the same bytes."""

    def init(self, weights: Tensors) -> GlobalState:
        """Return the state before the first round."""

    def apply(self, state: GlobalState, result: RoundResult) -> GlobalState:
        """Return the state after a round.

        Args:
            state: the state before the round.
            result: the round's result.
        """


class FedAvg:
    """Federated averaging: the mean is the new model (McMahan et al. 2017, arXiv 1602.05629; paper, section 2.1)."""

    def init(self, weights: Tensors) -> GlobalState:
        """Implements `Strategy.init`: the initial weights and no server state."""
        return GlobalState(weights)

    def apply(self, state: GlobalState, result: RoundResult) -> GlobalState:
        """Implements `Strategy.apply`: the mean replaces the weights; frozen tensors stay."""
        return GlobalState({**state.weights, **result.mean})


STRATEGIES: Final[dict[str, type[Strategy]]] = {"fedavg": FedAvg}


def create(job: Job) -> Strategy:
    """Create the strategy that the job names."""
    return STRATEGIES[name_of(job.strategy)]()
