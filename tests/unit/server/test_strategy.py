"""How a round becomes the next global model."""

import numpy as np
import pytest

from broker.messages import job
from broker.messages.errors import JobError
from broker.messages.job import Job
from server import strategy
from server.strategy import FedAvg, GlobalState, RoundResult


def test_federated_averaging_takes_the_mean_and_keeps_what_nobody_trains() -> None:
    before = FedAvg().init({"frozen": np.array([7.0]), "w": np.array([1.0, 2.0])})
    mean = {"w": np.array([3.0, 4.0])}
    after = FedAvg().apply(before, RoundResult(1, mean, samples=10, updates=2))
    assert {name: array.tolist() for name, array in after.weights.items()} == {"frozen": [7.0], "w": [3.0, 4.0]}
    assert after.server_state == {}
    assert before.weights["w"].tolist() == [1.0, 2.0]


def test_federated_averaging_starts_with_the_weights() -> None:
    weights = {"w": np.zeros(2)}
    assert FedAvg().init(weights) == GlobalState(weights, {})


def test_a_job_gets_the_strategy_that_it_names() -> None:
    assert isinstance(strategy.create(Job()), FedAvg)


def test_a_strategy_that_a_job_may_not_name_is_refused() -> None:
    with pytest.raises(JobError, match=r"strategy.name = 'fedsgd': expected one of 'fedavg'"):
        job.from_dict({"strategy": {"name": "fedsgd"}})
