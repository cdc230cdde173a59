"""The server's half of each strategy. A new one: a struct in `broker.messages.strategy`, a module and a row here.

`client_fn/strategies` has the clients' half of those that change the training.
"""

from typing import Final

import msgspec

from broker.messages import strategy as messages
from broker.messages.job import Job
from server.strategies.base import Strategy
from server.strategies.fedadam import FedAdam
from server.strategies.fedavg import FedAvg
from server.strategies.fedavgm import FedAvgM
from server.strategies.fedprox import FedProx
from server.strategies.median import Median

STRATEGIES: Final[dict[type[msgspec.Struct], type[Strategy]]] = {
    messages.FedAvg: FedAvg,
    messages.FedProx: FedProx,
    messages.FedAvgM: FedAvgM,
    messages.FedAdam: FedAdam,
    messages.Median: Median,
}


def create(job: Job) -> Strategy:
    """Create the strategy that the job names."""
    return STRATEGIES[type(job.strategy)](job)
