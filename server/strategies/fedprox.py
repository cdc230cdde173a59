"""FedProx (Li et al. 2020, arXiv 1812.06127): clients are drawn back to the global model while they train."""

from typing import ClassVar

from server.strategies.base import Strategy


class FedProx(Strategy):
    """Averages like FedAvg. The proximal term is the client's half, `client_fn/strategies/fedprox.py`."""

    has_client_half: ClassVar[bool] = True
