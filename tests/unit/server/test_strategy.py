"""How a round becomes the next global model."""

import msgspec
import numpy as np
import pytest

from broker.messages import job
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.job import Strategy as StrategySection
from server import strategy
from server.strategy import FedAvg, GlobalState, RoundResult


def test_federated_averaging_takes_the_mean_and_keeps_what_nobody_trains() -> None:
    before = FedAvg().init({"frozen": np.array([7.0]), "w": np.array([1.0, 2.0])})
    mean = {"w": np.array([3.0, 4.0])}
    after = FedAvg().apply(before, RoundResult(1, mean, samples=10, updates=2))
    assert {name: array.tolist() for name, array in after.weights.items()} == {"frozen": [7.0], "w": [3.0, 4.0]}
    assert after.server_state == {}
    assert before.weights["w"].tolist() == [1.0, 2.0]


def test_federated_averaging_starts_with_the_weights_and_sends_no_client_config() -> None:
    weights = {"w": np.zeros(2)}
    assert FedAvg().init(weights) == GlobalState(weights, {})
    assert FedAvg().client_config(1, "c-0") == {}


def test_a_job_gets_the_strategy_that_it_names() -> None:
    assert isinstance(strategy.create(Job()), FedAvg)


def test_the_strategies_are_exactly_those_that_a_job_may_name() -> None:
    kind = msgspec.inspect.type_info(StrategySection)
    assert isinstance(kind, msgspec.inspect.StructType)
    named = next(field.type for field in kind.fields if field.name == "name")
    assert isinstance(named, msgspec.inspect.LiteralType)
    assert set(named.values) == set(strategy.STRATEGIES)
    with pytest.raises(JobError, match=r"strategy.name = 'fedsgd': expected one of 'fedavg'"):
        job.from_dict({"strategy": {"name": "fedsgd"}})
