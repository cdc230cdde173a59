"""q-FedAvg: clients for which the model is bad count more (Li et al., 2020, arXiv:1905.10497)."""

from typing import ClassVar

from client_fn.strategies.base import ClientStrategy


class QFedAvg(ClientStrategy):
    """Trains as FedAvg does. The server weighs the update by the loss that was measured before the training."""

    needs_loss: ClassVar[bool] = True
