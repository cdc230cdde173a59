"""How a finished round becomes the next global model. A strategy is a pair of pure functions and a word to clients.

A later strategy is one more class with these three methods and one more line in STRATEGIES; the rounds, the gate and
the aggregator do not know which one runs. Whatever a strategy remembers between rounds are tensors in `server_state`;
the server publishes them beside the model, so they survive a crash.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from broker.messages.job import Job
from broker.messages.tensors import Tensors


@dataclass(frozen=True, slots=True)
class GlobalState:
    """What a job has learned so far.

    Attributes:
        weights: the global model, every tensor of it.
        server_state: the strategy's own tensors, such as a server optimizer's momentum.
    """

    weights: Tensors
    server_state: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a round brought.

    Attributes:
        round: its number.
        mean: the exact mean of the counted updates, weighted by samples; only tensors that clients train.
        samples: the sum of their samples.
        updates: how many there were.
    """

    round: int
    mean: Tensors
    samples: int
    updates: int


class Strategy(Protocol):
    """What the server asks of a strategy."""

    def init(self, weights: Tensors) -> GlobalState:
        """The state before the first round."""

    def apply(self, state: GlobalState, finished: Finished) -> GlobalState:
        """The state after a round. Deterministic: two servers must get the same bytes."""

    def client_config(self, round_: int, client: str) -> dict[str, Any]:
        """What a client's task says beyond the job's hyper-parameters; JSON values."""


class FedAvg:
    """Federated averaging: the mean is the new model (McMahan et al. 2017, arXiv 1602.05629; paper, section 2.1)."""

    def init(self, weights: Tensors) -> GlobalState:
        """The initial weights, and nothing to remember."""
        return GlobalState(weights)

    def apply(self, state: GlobalState, finished: Finished) -> GlobalState:
        """The mean, beside the tensors that nobody trains."""
        return GlobalState({**state.weights, **finished.mean})

    def client_config(self, round_: int, client: str) -> dict[str, Any]:  # noqa: ARG002 (the interface's arguments)
        """Nothing."""
        return {}


STRATEGIES: Final[dict[str, type[Strategy]]] = {"fedavg": FedAvg}


def of(job: Job) -> Strategy:
    """The strategy that the job names."""
    return STRATEGIES[job.strategy.name]()
