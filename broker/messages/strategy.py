"""Strategies that a job may name, each with its own parameters: how the counted updates become the next global model.

In files and JSON, `name` says which one it is: `strategy = {name = "fedprox", mu = 0.01}`. An older program
refuses a message with a strategy that it does not know.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from broker.support.validation import Positive

Decay = Annotated[float, Meta(ge=0, lt=1)]


class _Strategy(msgspec.Struct, frozen=True, kw_only=True, tag_field="name"):
    """Base of the strategies. Programs forward them to each other, so only a job's `from_dict` reads them strictly."""


class FedAvg(_Strategy, frozen=True, tag="fedavg"):
    """Federated averaging: the mean of the updates makes the next model (McMahan et al. 2017, arXiv 1602.05629)."""


class FedProx(_Strategy, frozen=True, tag="fedprox"):
    """FedAvg whose clients stay near the round's model (Li et al. 2020, arXiv 1812.06127).

    Attributes:
        mu: weight of the proximal term: each step's gradient gets `mu` times the way from the round's model.
    """

    mu: Annotated[float, Meta(ge=0)] = 0.01


class FedAvgM(_Strategy, frozen=True, tag="fedavgm"):
    """FedAvg with momentum on the server (Hsu et al. 2019, arXiv 1909.06335).

    Attributes:
        beta: share of the momentum that is kept from round to round.
        rate: the server's learning rate.
    """

    beta: Decay = 0.9
    rate: Positive = 1.0


class FedAdam(_Strategy, frozen=True, tag="fedadam"):
    """Adam on the server (Reddi et al. 2021, arXiv 2003.00295).

    Attributes:
        rate: the server's learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        tau: degree of adaptivity, added to the root of the second moment.
    """

    rate: Positive = 0.1
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    tau: Positive = 1e-3


class Median(_Strategy, frozen=True, tag="median"):
    """The median of the clients' values, for each coordinate on its own (Yin et al. 2018, arXiv 1803.01498)."""


Strategy = FedAvg | FedProx | FedAvgM | FedAdam | Median


def name_of(strategy: Strategy) -> str:
    """Return a strategy's name in files and messages."""
    return str(strategy.__struct_config__.tag)
