"""How a round becomes the next global model: numbers by hand, and the bytes that strategies have in common.

The numbers: the model (1, -2); client 1 with 10 samples comes to (2, -2.5), client 2 with 30 samples to (0.5, -1). In
round 2 they come to (2.5, -2) and (0.75, -0.75).
"""

from typing import Any, Final, get_args

import numpy as np
import pytest

from broker.messages import strategy as messages
from broker.messages.job import Job
from broker.messages.tensors import Array, Tensors, encode
from server import strategies
from server.strategies.base import GlobalState, ModelInfo
from tests.support.strategy_rounds import Form, Rounds, changes, job_of

BASE: Final = {"w": np.array([1.0, -2.0])}
ROUNDS: Final = (((2.0, -2.5), (0.5, -1.0)), ((2.5, -2.0), (0.75, -0.75)))

SERVER_ONLY: Final = ("fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi")


def two_rounds(strategy: dict[str, Any], form: Form = "delta") -> list[list[float]]:
    """The model after each of the two rounds, float64."""
    rounds = Rounds(job_of(strategy, training={"update": form}), ModelInfo(BASE), (10, 30))
    models = []
    for clients in ROUNDS:
        updates = changes(rounds.state.weights, [{"w": np.array(client)} for client in clients], form)
        models.append(rounds.round(updates).weights["w"].tolist())
    return models


@pytest.mark.parametrize("form", get_args(Form))
@pytest.mark.parametrize(
    ("strategy", "first", "second"),
    [
        ({"name": "fedavg"}, (0.875, -1.375), None),
        ({"name": "fedavg", "weights": "equal"}, (1.25, -1.75), None),
        ({"name": "fedavgm", "beta": 0.9, "rate": 1.0}, (0.875, -1.375), (1.075, -0.5)),
        (
            {"name": "fedadagrad", "v0": 0.0},
            (0.900793650794, -1.900159744409),
            (0.992168122707, -1.820087580503),
        ),
        ({"name": "fedadam"}, (0.907677791606, -1.901587076866), (0.960564662585, -1.768666413451)),
        (
            {"name": "fedadam", "v0": 0.0, "bias_correction": True},
            (0.931253723296, -1.926923249173),
            (0.962258884981, -1.842500155780),
        ),
        ({"name": "fedyogi"}, (0.990768051037, -1.990158720082), (0.994230125357, -1.976955167263)),
        ({"name": "fedyogi", "v0": 0.0}, (0.990740740741, -1.990157480315), (0.994206663645, -1.976953403492)),
    ],
    ids=str,
)
def test_server_optimizers_by_hand(
    strategy: dict[str, Any], first: tuple[float, float], second: tuple[float, float] | None, form: Form
) -> None:
    """The numbers are those of the papers' formulas; Flower's classes have returned those with `v0 = 0` too."""
    got = two_rounds(strategy, form)
    assert got[0] == pytest.approx(first, abs=1e-7)
    if second is not None:
        assert got[1] == pytest.approx(second, abs=1e-6)


MODEL: Final[Tensors] = {
    "w": np.random.default_rng(1).normal(size=40).astype(np.float32),
    "norm.running_var": np.ones(3, np.float32),
    "norm.num_batches_tracked": np.array(7, np.int64),
    "frozen": np.array([5.0], np.float32),
}
BUFFERS: Final = ("norm.running_var", "norm.num_batches_tracked")
INFO: Final = ModelInfo(MODEL, frozenset({"frozen"}), frozenset(BUFFERS))


def updates_of(model: Tensors, count: int = 3, scale: float = 0.1, form: Form = "delta") -> list[Tensors]:
    rng = np.random.default_rng(2)

    def moved(value: Array) -> Array:
        step = rng.normal(scale=scale, size=value.shape).astype(value.dtype) if value.dtype.kind == "f" else 4
        return np.asarray(value + step)

    models = [{name: moved(value) for name, value in model.items() if name != "frozen"} for _ in range(count)]
    return changes(model, models, form)


def after_one_round(strategy: dict[str, Any], form: Form = "delta", scale: float = 0.1) -> GlobalState:
    rounds = Rounds(job_of(strategy, training={"update": form}), INFO, (10, 30, 5))
    return rounds.round(updates_of(MODEL, scale=scale, form=form))


@pytest.mark.parametrize("scale", [0.1, 1e-6, 500.0])
@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "fedprox", "mu": 0.0},
        {"name": "fedavgm", "beta": 0.0},
        {"name": "fedavg", "local": {"name": "fedprox"}},
    ],
    ids=str,
)
def test_without_their_parameter_they_have_the_bytes_of_federated_averaging(
    strategy: dict[str, Any], scale: float
) -> None:
    own = after_one_round(strategy, scale=scale).weights
    assert encode(own) == encode(after_one_round({"name": "fedavg"}, scale=scale).weights)


@pytest.mark.parametrize("name", [*SERVER_ONLY, "median", "trimmed_mean"])
@pytest.mark.parametrize("form", get_args(Form))
def test_no_strategy_steps_buffers_counters_or_frozen_tensors(name: str, form: Form) -> None:
    share = {"share": 0.4} if name == "trimmed_mean" else {}
    state, average = after_one_round({"name": name, **share}, form), after_one_round({"name": "fedavg"}, form)
    for tensor in ("norm.running_var", "norm.num_batches_tracked", "frozen"):
        assert state.weights[tensor].tobytes() == average.weights[tensor].tobytes()
    assert {tensor: array.dtype for tensor, array in state.weights.items()} == {
        tensor: array.dtype for tensor, array in MODEL.items()
    }
    assert all(tensor.endswith(".w") for tensor in state.server_state)


def test_a_model_tells_its_tensors_apart() -> None:
    model = ModelInfo(
        {**MODEL, "mask": np.array([True])},
        frozenset({"frozen"}),
        frozenset({*BUFFERS, "mask"}),
    )
    assert model.weights == ("w",)
    assert model.statistics == ("norm.running_var",)
    assert model.counters == ("norm.num_batches_tracked", "mask")
    assert "frozen" not in model.trained


@pytest.mark.parametrize(
    ("strategy", "weight"), [({"name": "fedavg"}, 30), ({"name": "fedadam", "weights": "equal"}, 1)], ids=str
)
def test_the_weight_of_an_update_is_its_number_of_samples_or_one(strategy: dict[str, Any], weight: int) -> None:
    rounds = Rounds(job_of(strategy), ModelInfo(BASE), (10, 30))
    rounds.round(changes(BASE, [{"w": np.array(client)} for client in ROUNDS[0]]))
    assert rounds.finished is not None
    assert rounds.finished.shares["c-01"].weight == weight
    assert rounds.strategy.max_weight() == (1 if weight == 1 else Job().cohort.max_samples)


def test_every_strategy_that_a_job_may_name_is_made() -> None:
    for kind in get_args(messages.Strategy):
        assert strategies.create(job_of({"name": kind.__struct_config__.tag})).parameters == kind()
    parts = {*strategies.WHOLE, *strategies.RULES, *strategies.OPTIMIZERS, messages.FedAvg, messages.FedProx}
    assert parts == set(get_args(messages.Strategy))
