"""The server's half of each strategy. A new one: a struct in `broker.messages.strategy`, a module and a row here.

`client_fn/strategies` has the clients' half of those that change the training.
"""

from typing import Final

import msgspec

from broker.messages import strategy as messages
from broker.messages.job import Job
from broker.messages.strategy import rule_of
from server.strategies.averaging import Averaging
from server.strategies.base import Strategy
from server.strategies.feddyn import FedDyn
from server.strategies.fednova import FedNova
from server.strategies.optimizers import Adagrad, Adam, Momentum, Optimizer, Yogi
from server.strategies.qfedavg import QFedAvg
from server.strategies.robust import Robust
from server.strategies.rules import Rule
from server.strategies.scaffold import Scaffold

WHOLE: Final[dict[type[msgspec.Struct], type[Strategy]]] = {
    messages.Scaffold: Scaffold,
    messages.FedDyn: FedDyn,
    messages.QFedAvg: QFedAvg,
}
"""Strategies that are not made of parts."""

RULES: Final[dict[type[msgspec.Struct], type[Rule]]] = {
    messages.FedNova: FedNova,
    messages.Median: Robust,
    messages.TrimmedMean: Robust,
    messages.Krum: Robust,
}
"""How the updates become one change; all others take their mean."""

OPTIMIZERS: Final[dict[type[msgspec.Struct], type[Optimizer]]] = {
    messages.FedAvgM: Momentum,
    messages.FedAdagrad: Adagrad,
    messages.FedAdam: Adam,
    messages.FedYogi: Yogi,
}
"""How that change steps the model; in all others it is the step."""


def create(job: Job) -> Strategy:
    """Create the strategy that the job names."""
    kind = type(job.strategy)
    if kind in WHOLE:
        return WHOLE[kind](job)
    optimizer = OPTIMIZERS[kind](job.strategy) if kind in OPTIMIZERS else None
    return Averaging(job, RULES.get(type(rule_of(job.strategy)), Rule)(job), optimizer)
