"""Each strategy that a job may name has a client half."""

import typing

import msgspec
import pytest
from torch import nn

from broker.messages import strategy as messages
from client_fn.errors import TrainingFailed
from client_fn.strategies import STRATEGIES, make
from client_fn.strategies.base import ClientStrategy, Outcome

pytestmark = pytest.mark.torch

NAMED = {messages.name_of(class_()): class_ for class_ in typing.get_args(messages.Strategy)}


def test_the_table_has_the_strategies_of_the_jobs() -> None:
    assert STRATEGIES.keys() == NAMED.keys()


@pytest.mark.parametrize("name", NAMED)
def test_a_strategy_is_made_from_what_the_task_says(name: str) -> None:
    strategy = make(msgspec.to_builtins(NAMED[name]()))
    assert type(strategy) is STRATEGIES[name]
    assert strategy.changes_gradients == (name == "fedprox")


def test_a_strategy_of_a_newer_version_is_named() -> None:
    with pytest.raises(TrainingFailed, match="strategy 'fedsgd' is not known to this version, known are fedavg, "):
        make({"name": "fedsgd"})


def test_the_base_sends_nothing_back() -> None:
    strategy, module = ClientStrategy({"name": "fedavg"}), nn.Linear(1, 1)
    strategy.start(module, {}, {})
    assert strategy.finish(module) == Outcome({}, {})
