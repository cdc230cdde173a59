"""The strategies' client halves: what a strategy changes in a client's training. They run in the trainer process.

So these modules are written for Python 3.10 and import nothing but the standard library, torch and `client_fn.errors`.
"""

from collections.abc import Mapping
from typing import Any, Final

from client_fn.errors import TrainingFailed
from client_fn.strategies.base import ClientStrategy
from client_fn.strategies.feddyn import FedDyn
from client_fn.strategies.fedprox import FedProx
from client_fn.strategies.qfedavg import QFedAvg
from client_fn.strategies.scaffold import Scaffold

STRATEGIES: Final[dict[str, type[ClientStrategy]]] = {
    "fedavg": ClientStrategy,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "qfedavg": QFedAvg,
    # Servers of older versions name these, which are theirs alone. Newer ones name fedavg instead.
    "fedavgm": ClientStrategy,
    "fedadam": ClientStrategy,
    "median": ClientStrategy,
}
"""The client half of each strategy. A task names the half that is to be applied."""


def make(strategy: Mapping[str, Any]) -> ClientStrategy:
    """Return the client half of a job's strategy, for one training.

    Args:
        strategy: its `name`, and its parameters by name.

    Raises:
        TrainingFailed: this version does not know the strategy.
    """
    name = str(strategy["name"])
    if name not in STRATEGIES:
        raise TrainingFailed(f"strategy {name!r} is not known to this version, known are {', '.join(STRATEGIES)}")
    return STRATEGIES[name](strategy)
