"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629; paper, section 2.1)."""

from server.strategies.base import Strategy


class FedAvg(Strategy):
    """The mean of the updates, weighted by samples, is the new model."""
