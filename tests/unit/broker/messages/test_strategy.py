"""A job's strategy: its name, its parameters, and what is refused."""

import math
from typing import Any, get_args

import msgspec
import pytest

from broker.messages import job_file
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.job_sections import Training
from broker.messages.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedNova,
    FedProx,
    FixedGuard,
    Krum,
    Median,
    MedianGuard,
    QuantileGuard,
    Scaffold,
    Strategy,
    TrimmedMean,
    client_half,
    rule_of,
)

NAMES = ", ".join(repr(kind.__struct_config__.tag) for kind in get_args(Strategy))
STRATEGIES = f"expected one of {NAMES}"
WHICH: list[Strategy] = [
    *(kind() for kind in get_args(Strategy)),
    FedProx(mu=0.5),
    FedAvgM(beta=0.0),
    FedAdam(tau=1e-9, over=Median(), local=FedProx(mu=0.1), guard=MedianGuard(multiple=3.0)),
    FedAvg(over=Krum(faulty=1, keep=2), weights="equal", guard=FixedGuard(norm=2.0)),
    TrimmedMean(share=0.1, guard=QuantileGuard()),
]


@pytest.mark.parametrize("strategy", WHICH, ids=str)
def test_a_strategy_comes_back_from_toml_and_json_and_without_its_defaults(strategy: Strategy) -> None:
    got = Job(strategy=strategy, training=Training(optimizer="sgd"))
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
        (
            {"name": "fedavg", "mu": 0.1},
            "strategy.mu = 0.1: no such key; known for 'fedavg' are name, guard, over, local, weights",
        ),
        (
            {"name": "fedavg", "over": {"name": "fedavg"}},
            "strategy.over.name = 'fedavg': expected one of 'fednova', 'median', 'trimmed_mean', 'krum'",
        ),
        ({"name": "fedavg", "guard": {"name": "fixed"}}, "strategy.guard.norm: missing; expected a number > 0"),
        ({"name": "trimmed_mean", "share": 0.5}, "strategy.share = 0.5: expected a number > 0 and < 0.5"),
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


def test_the_client_half_is_what_a_function_must_apply() -> None:
    assert client_half(FedAdam()) is None
    assert client_half(FedNova()) is None
    assert client_half(FedProx(mu=0.5)) == client_half(FedAdam(local=FedProx(mu=0.5))) == FedProx(mu=0.5)
    assert client_half(Scaffold()) == Scaffold()


def test_the_rule_is_what_makes_one_change_of_the_updates() -> None:
    assert rule_of(FedAdam()) == FedAdam()
    assert rule_of(Krum()) == rule_of(FedAvg(over=Krum())) == Krum()
