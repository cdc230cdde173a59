"""A job's strategy: its name, its parameters, and what is refused."""

import math
from typing import Any

import msgspec
import pytest

from broker.messages import job_file
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.strategy import FedAdam, FedAvg, FedAvgM, FedProx, Median, Strategy, name_of

STRATEGIES = "expected one of 'fedavg', 'fedprox', 'fedavgm', 'fedadam', 'median'"
WHICH: list[Strategy] = [FedAvg(), FedProx(), FedProx(mu=0.5), FedAvgM(beta=0.0), FedAdam(tau=1e-9), Median()]


@pytest.mark.parametrize("strategy", WHICH, ids=name_of)
def test_a_strategy_comes_back_from_toml_and_json_and_without_its_defaults(strategy: Strategy) -> None:
    got = Job(strategy=strategy)
    assert job_file.from_json(msgspec.json.encode(got)).strategy == strategy
    assert job_file.from_text(job_file.to_toml(got)).strategy == strategy
    assert job_file.from_dict(job_file.without_defaults(got)).strategy == strategy


def test_a_strategy_without_its_defaults_keeps_its_name() -> None:
    assert job_file.without_defaults(Job(strategy=FedProx())) == {"strategy": {"name": "fedprox"}}
    assert job_file.without_defaults(Job(strategy=FedProx(mu=0.5))) == {"strategy": {"name": "fedprox", "mu": 0.5}}


def test_a_job_names_its_strategy_and_the_parameters_that_differ() -> None:
    assert job_file.from_text('strategy = {name = "fedprox", mu = 0.1}').strategy == FedProx(mu=0.1)
    assert job_file.from_text('[strategy]\nname = "fedavg"').strategy == FedAvg()
    assert job_file.from_text("").strategy == FedAvg()
    assert job_file.from_text("", ("strategy.name=fedavgm", "strategy.rate=0.5")).strategy == FedAvgM(rate=0.5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "fedprox", "mu": -1}, "strategy.mu = -1: expected a number >= 0"),
        ({"name": "fedprox", "mu": math.inf}, "strategy.mu = inf: expected a finite number; whole ones up to 2^53 - 1"),
        ({"name": "fedavgm", "beta": 1.0}, "strategy.beta = 1.0: expected a number >= 0 and < 1"),
        ({"name": "fedavgm", "rate": 0}, "strategy.rate = 0: expected a number > 0"),
        ({"name": "fedadam", "tau": 0}, "strategy.tau = 0: expected a number > 0"),
        (
            {"name": "fedadam", "beta_1": 0.9},
            "strategy.beta_1 = 0.9: no such key; did you mean 'beta1'?",
        ),
        ({"name": "fedavg", "mu": 0.1}, "strategy.mu = 0.1: no such key; known for 'fedavg' are name"),
        ({"mu": 0.1}, f"strategy.name: missing; {STRATEGIES}"),
        ({}, f"strategy.name: missing; {STRATEGIES}"),
        (
            {"nam": "fedprox"},
            "strategy.nam = 'fedprox': no such key; did you mean 'name'?",
        ),
    ],
)
def test_a_wrong_parameter_of_a_strategy_is_refused_by_name(table: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as refused:
        job_file.from_dict({"strategy": table})
    assert str(refused.value) == message
