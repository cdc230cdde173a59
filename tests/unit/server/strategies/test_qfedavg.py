"""q-FedAvg by hand: clients with a larger loss count more."""

from typing import Final

import numpy as np
import pytest

from broker.messages.tensors import Tensors
from server.errors import Refused
from server.strategies.base import ModelInfo
from tests.support.strategy_rounds import Rounds, changes, job_of

BASE: Final[Tensors] = {"w": np.array([1.0, -2.0])}
MODELS: Final[list[Tensors]] = [{"w": np.array([2.0, -2.5])}, {"w": np.array([0.5, -1.0])}]


def rounds_of(q: float) -> Rounds:
    return Rounds(job_of({"name": "qfedavg", "q": q}), ModelInfo(BASE), (10, 30))


@pytest.mark.parametrize(("q", "expected"), [(0, (1.25, -1.75)), (1, (1.063636363636, -2.018181818182))])
def test_by_hand(q: float, expected: tuple[float, float]) -> None:
    state = rounds_of(q).round(changes(BASE, MODELS), [{"global_loss": 2.0}, {"global_loss": 0.5}])
    assert state.weights["w"].tolist() == pytest.approx(expected, abs=1e-8)


def test_the_losses_of_the_last_round_only_scale_the_sums() -> None:
    """The second round's model is as if no round had been before it."""
    rounds = rounds_of(2.0)
    rounds.round([{"w": np.zeros(2)}] * 2, [{"global_loss": 50.0}, {"global_loss": 0.1}])
    losses = [{"global_loss": 2.0}, {"global_loss": 0.5}]
    second = rounds.round(changes(BASE, MODELS), losses).weights["w"]
    first = rounds_of(2.0).round(changes(BASE, MODELS), losses).weights["w"]
    assert second.tolist() == pytest.approx(first.tolist(), abs=1e-5)


def test_a_loss_of_zero_is_a_loss_and_a_smaller_one_is_refused() -> None:
    state = rounds_of(1.0).round(changes(BASE, MODELS), [{"global_loss": 0.0}, {"global_loss": 0.5}])
    assert np.isfinite(state.weights["w"]).all()
    with pytest.raises(Refused, match="its global_loss is -1: this strategy needs a loss of at least 0"):
        rounds_of(1.0).round(changes(BASE, MODELS), [{"global_loss": -1.0}, {"global_loss": 0.5}])
