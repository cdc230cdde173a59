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
HALVES = {messages.name_of(class_()): class_ for class_ in typing.get_args(messages.ClientHalf)}


def test_the_table_has_every_half_that_a_task_may_name() -> None:
    halves = {name: class_ for name, class_ in STRATEGIES.items() if class_ is not ClientStrategy}
    assert halves.keys() == HALVES.keys()
    assert STRATEGIES.keys() - halves.keys() == {"fedavg", "fedavgm", "fedadam", "median"}


@pytest.mark.parametrize("name", [name for name in NAMED if name in STRATEGIES])
def test_a_strategy_is_made_from_what_the_task_says(name: str) -> None:
    strategy = make(msgspec.to_builtins(NAMED[name]()))
    assert type(strategy) is STRATEGIES[name]
    assert strategy.changes_gradients == (name in ("fedprox", "scaffold", "feddyn"))
    assert strategy.needs_loss == (name == "qfedavg")
    assert strategy.names_tensors == (name in ("scaffold", "feddyn"))


@pytest.mark.parametrize("name", NAMED)
def test_a_task_names_a_half_that_is_in_the_table(name: str) -> None:
    half = messages.client_half(NAMED[name]())
    assert half is None or STRATEGIES[messages.name_of(half)] is not ClientStrategy


def test_a_strategy_of_a_newer_version_is_named() -> None:
    with pytest.raises(TrainingFailed, match="strategy 'fedsgd' is not known to this version, known are fedavg, "):
        make({"name": "fedsgd"})


def test_the_base_sends_nothing_back() -> None:
    strategy, module = ClientStrategy({"name": "fedavg"}), nn.Linear(1, 1)
    strategy.start(module, {}, {})
    assert strategy.finish(module) == Outcome({}, {})
