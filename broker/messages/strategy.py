"""Strategies that a job may name, each with its own parameters: how the counted updates become the next global model.

In files and JSON, `name` says which one it is: `strategy = {name = "fedprox", mu = 0.01}`. Those that step the model on
the server also say `over` what they step (by default the mean), and what changes the clients' training:
`strategy = {name = "fedadam", over = {name = "median"}, local = {name = "fedprox", mu = 0.1}}`. Any of them may have a
guard, which bounds what one client can change. An older program refuses a message with a strategy that it does not
know.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.support.validation import AtLeastOne, NotNegative, Positive

Decay = Annotated[float, Meta(ge=0, lt=1)]


class _Named(msgspec.Struct, frozen=True, kw_only=True, tag_field="name"):
    """Base of what is named. Programs forward them to each other, so only a job's `from_dict` reads them strictly."""


class FixedGuard(_Named, frozen=True, tag="fixed"):
    """Each update's change is scaled down to a norm that the job sets.

    Attributes:
        norm: the largest L2 norm of the change of all weights together.
    """

    norm: Positive


class MedianGuard(_Named, frozen=True, tag="median"):
    """Each update's change is scaled down to a multiple of the median norm of the last round's counted updates.

    Attributes:
        multiple: of the median norm.
        first: the largest norm in the first round; None: that round has no guard.
    """

    multiple: Positive = 2.0
    first: Positive | None = None


class QuantileGuard(_Named, frozen=True, tag="quantile"):
    """Each update's change is scaled down to a norm that follows a quantile of all norms (Andrew et al. 2021).

    After each round `norm *= exp(-rate * (b - quantile))`, where b is the share of the updates whose norm was not
    larger (arXiv 1905.03871).

    Attributes:
        quantile: the share of updates that is left alone in the long run.
        rate: how quickly the norm follows.
        first: the largest norm in the first round.
    """

    quantile: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    rate: Positive = 0.2
    first: Positive = 1.0


Guard = FixedGuard | MedianGuard | QuantileGuard


class _Strategy(_Named, frozen=True):
    """Base of the strategies.

    Attributes:
        guard: bounds what one client can change; None: only the bounds of the sums do.
    """

    guard: Guard | None = None


class FedProx(_Strategy, frozen=True, tag="fedprox"):
    """FedAvg whose clients stay near the round's model (Li et al. 2020, arXiv 1812.06127).

    Attributes:
        mu: weight of the proximal term: each step's gradient gets `mu` times the way from the round's model.
    """

    mu: Annotated[float, Meta(ge=0)] = 0.01


class FedNova(_Strategy, frozen=True, tag="fednova"):
    """Averages the clients' changes per step, so that no client counts more for its number of steps (Wang et al. 2020).

    arXiv 2007.07481. Clients train with SGD, with or without momentum.
    """


class Median(_Strategy, frozen=True, tag="median"):
    """The median of the clients' values, for each coordinate on its own (Yin et al. 2018, arXiv 1803.01498)."""


class TrimmedMean(_Strategy, frozen=True, tag="trimmed_mean"):
    """The mean of the clients' values without the largest and the smallest, for each coordinate (Yin et al. 2018).

    arXiv 1803.01498. Clients count alike.

    Attributes:
        share: share of the updates that is left out at each end; of n updates the whole part of `share * n`.
    """

    share: Annotated[float, Meta(gt=0, lt=0.5)] = 0.2


class Krum(_Strategy, frozen=True, tag="krum"):
    """The update that is nearest to its neighbours, or the mean of several such (Blanchard et al. 2017).

    arXiv 1703.02757. An update's score is the sum of its n - faulty - 2 smallest squared distances to others.

    Attributes:
        faulty: number of updates that may be anything; a round needs at least `2 * faulty + 3` updates.
        keep: number of updates with the lowest scores whose mean counts; above 1 it is Multi-Krum.
    """

    faulty: NotNegative = 1
    keep: AtLeastOne = 1


Over = FedNova | Median | TrimmedMean | Krum


class _Stepping(_Strategy, frozen=True):
    """Base of the strategies that are made of parts.

    Attributes:
        over: how the updates become one change; None: their mean.
        local: what changes the clients' training; None: nothing does.
        weights: in the mean, each update counts by its samples, or all count equally.
    """

    over: Over | None = None
    local: FedProx | None = None
    weights: Literal["samples", "equal"] = "samples"


class FedAvg(_Stepping, frozen=True, tag="fedavg"):
    """Federated averaging: the mean of the updates makes the next model (McMahan et al. 2017, arXiv 1602.05629)."""


class FedAvgM(_Stepping, frozen=True, tag="fedavgm"):
    """FedAvg with momentum on the server (Hsu et al. 2019, arXiv 1909.06335).

    Attributes:
        beta: share of the momentum that is kept from round to round.
        rate: the server's learning rate.
    """

    beta: Decay = 0.9
    rate: Positive = 1.0


class FedAdagrad(_Stepping, frozen=True, tag="fedadagrad"):
    """Adagrad on the server (Reddi et al. 2021, arXiv 2003.00295).

    Attributes:
        rate: the server's learning rate.
        tau: degree of adaptivity, added to the root of the second moment.
        v0: the second moment before the first round; None: the square of `tau`.
    """

    rate: Positive = 0.1
    tau: Positive = 1e-3
    v0: Annotated[float, Meta(ge=0)] | None = None


class FedAdam(_Stepping, frozen=True, tag="fedadam"):
    """Adam on the server (Reddi et al. 2021, arXiv 2003.00295).

    Attributes:
        rate: the server's learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        tau: degree of adaptivity, added to the root of the second moment.
        v0: the second moment before the first round; None: the square of `tau`.
        bias_correction: correct both moments as Flower does in round r, with r + 1 for the number of steps. The paper
            does not correct them.
    """

    rate: Positive = 0.1
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    tau: Positive = 1e-3
    v0: Annotated[float, Meta(ge=0)] | None = None
    bias_correction: bool = False


class FedYogi(_Stepping, frozen=True, tag="fedyogi"):
    """Yogi on the server: Adam whose second moment moves by small steps (Reddi et al. 2021, arXiv 2003.00295).

    Attributes:
        rate: the server's learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        tau: degree of adaptivity, added to the root of the second moment.
        v0: the second moment before the first round; None: the square of `tau`.
    """

    rate: Positive = 0.01
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    tau: Positive = 1e-3
    v0: Annotated[float, Meta(ge=0)] | None = None


class Scaffold(_Strategy, frozen=True, tag="scaffold"):
    """Clients correct each step by how their gradients differ from all clients' (Karimireddy et al. 2020).

    arXiv 1910.06378, option II. Clients train with plain SGD and count alike; updates and tasks are twice as large.

    Attributes:
        rate: the server's learning rate.
    """

    rate: Positive = 1.0


class FedDyn(_Strategy, frozen=True, tag="feddyn"):
    """Clients' objectives are aligned by a regulariser that changes from round to round (Acar et al. 2021).

    arXiv 2111.04263. Clients count alike. The global model is the mean of the trained models; clients start from it and
    a correction, which each task sends along.

    Attributes:
        alpha: weight of the regulariser.
    """

    alpha: Positive = 0.01


class QFedAvg(_Strategy, frozen=True, tag="qfedavg"):
    """Clients for which the model is bad count more (Li et al. 2020, arXiv 1905.10497).

    Clients train with SGD, and measure the round's model on their samples before they train.

    Attributes:
        q: how much more; 0: all count equally.
    """

    q: Annotated[float, Meta(ge=0, le=10)] = 0.1


Strategy = (
    FedAvg
    | FedProx
    | FedAvgM
    | FedAdagrad
    | FedAdam
    | FedYogi
    | FedNova
    | Scaffold
    | FedDyn
    | QFedAvg
    | Median
    | TrimmedMean
    | Krum
)

ClientHalf = FedProx | Scaffold | FedDyn | QFedAvg
"""The strategies that change the clients' training."""


def name_of(strategy: Strategy) -> str:
    """Return a strategy's name in files and messages."""
    return str(strategy.__struct_config__.tag)


def client_half(strategy: Strategy) -> ClientHalf | None:
    """Return the strategy whose client half a function must apply; None: the training is that of FedAvg."""
    local = strategy.local if isinstance(strategy, _Stepping) else strategy
    return local if isinstance(local, ClientHalf) else None


def rule_of(strategy: Strategy) -> Strategy:
    """Return the strategy that says how the updates become one change: `over`, or the strategy itself."""
    over = strategy.over if isinstance(strategy, _Stepping) else None
    return strategy if over is None else over
