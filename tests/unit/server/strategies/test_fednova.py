"""FedNova by hand: changes per step, with momentum and with a proximal term."""

from typing import Any, Final

import numpy as np
import pytest

from broker.messages.tensors import Tensors, encode
from server.errors import Refused
from server.strategies.base import ModelInfo
from server.strategies.fednova import MAX_STEPS, norm_of_steps
from tests.support.strategy_rounds import Rounds, changes, job_of

BASE: Final[Tensors] = {"w": np.array([1.0, -2.0])}
MODELS: Final[list[Tensors]] = [{"w": np.array([2.0, -2.5])}, {"w": np.array([0.5, -1.0])}]


def after(steps: tuple[float, float], strategy: dict[str, Any] | None = None, **training: Any) -> list[float]:
    rounds = Rounds(job_of(strategy or {"name": "fednova"}, training=training), ModelInfo(BASE), (10, 30))
    state = rounds.round(changes(BASE, MODELS), [{"steps": float(each)} for each in steps])
    return [float(value) for value in state.weights["w"]]


def test_unequal_steps_by_hand() -> None:
    assert after((2, 5)) == pytest.approx((1.2125, -1.628125), abs=1e-9)
    assert after((2, 5), {"name": "fedavg", "over": {"name": "fednova"}}) == after((2, 5))


def test_momentum_by_hand() -> None:
    expected = (1.610399866424, -1.852298655262)
    assert after((2, 5), optimizer_args={"momentum": 0.9}) == pytest.approx(expected, abs=1e-9)
    assert norm_of_steps(2, 0.9) == pytest.approx(2.9)
    assert norm_of_steps(5, 0.9) == pytest.approx(13.1441)


def test_a_proximal_term_by_hand() -> None:
    assert norm_of_steps(3, decay=0.05) == pytest.approx(2.8525)
    strategy = {"name": "fedavg", "over": {"name": "fednova"}, "local": {"name": "fedprox", "mu": 0.5}}
    got, norms = after((2, 5), strategy), (norm_of_steps(2, decay=0.05), norm_of_steps(5, decay=0.05))
    moves = [model["w"] - BASE["w"] for model in MODELS]
    expected = BASE["w"] + (0.25 * 2 + 0.75 * 5) * (0.25 * moves[0] / norms[0] + 0.75 * moves[1] / norms[1])
    assert got == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 0.1, 30.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equal_steps_give_the_bytes_of_federated_averaging(scale: float, momentum: float) -> None:
    """The register tells how many steps are to be expected."""
    rng = np.random.default_rng(7)
    model: Tensors = {"w": rng.normal(size=300).astype(np.float32), "b": rng.normal(size=9).astype(np.float16)}
    updates = [{name: (scale * rng.normal(size=t.shape)).astype(t.dtype) for name, t in model.items()} for _ in "abc"]
    training = {"optimizer_args": {"momentum": momentum} if momentum else {}, "batch_size": 10, "local_epochs": 3}

    def run(name: str) -> bytes:
        rounds = Rounds(job_of({"name": name}, training=training), ModelInfo(model), (20, 20, 20))
        return encode(rounds.round(updates, [{"steps": 6.0}] * 3).weights)

    assert run("fednova") == run("fedavg")


@pytest.mark.parametrize("steps", [0.0, -1.0, 2.5, MAX_STEPS + 1.0, 1e30])
def test_an_impossible_number_of_steps_is_refused(steps: float) -> None:
    with pytest.raises(Refused, match=r"it claims .* steps, a whole number from 1 to 1000000 is possible"):
        after((2, steps))


def test_a_claim_of_few_steps_can_not_overflow_the_sum() -> None:
    rounds = Rounds(job_of({"name": "fednova"}), ModelInfo(BASE), (10_000, 10_000))
    with pytest.raises(Refused, match=r"w reaches .* after the strategy's scale, at most 2048 is accepted"):
        rounds.round([{"w": np.array([5.0, 0.0])}] * 2, [{"steps": 5000.0}, {"steps": 1.0}])
