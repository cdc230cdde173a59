"""How a round becomes the next global model: numbers by hand, and the bytes that strategies have in common.

The numbers: the model (1, -2); client 1 with 10 samples comes to (2, -2.5), client 2 with 30 samples to (0.5, -1). In
round 2 they come to (2.5, -2) and (0.75, -0.75).
"""

from typing import Any, Final, Literal, get_args

import numpy as np
import pytest

from broker.messages import job_file as jobs
from broker.messages import strategy as messages
from broker.messages.job import Job
from broker.messages.tensors import Array, Tensors, encode
from broker.messages.update import UpdateHeader
from server import aggregator, strategies
from server.aggregator import Aggregate
from server.strategies.base import Finished, GlobalState, ModelInfo, ReplayStrategy, Strategy
from server.strategies.median import Median

BASE: Final = np.array([1.0, -2.0])
ROUNDS: Final = (((2.0, -2.5), (0.5, -1.0)), ((2.5, -2.0), (0.75, -0.75)))
Form = Literal["delta", "weights"]


def make(name: str, **parameters: Any) -> Strategy:
    return strategies.create(jobs.from_dict({"strategy": {"name": name, **parameters}}))


def finish(
    strategy: Strategy, base: Tensors, updates: list[Tensors], form: Form = "delta", buffers: tuple[str, ...] = ()
) -> Finished:
    """What the server has of a round; client i has 10 or 30 samples."""
    model = ModelInfo(base, buffers=frozenset(buffers))
    aggregate = Aggregate(aggregator.plan(base, model.buffers, 1000))
    rows = []
    for update, samples in zip(updates, (10, 30, 5, 5), strict=False):
        sent = {
            name: value - base[name] if form == "delta" and value.dtype.kind == "f" else value
            for name, value in update.items()
        }
        rows.append(sent)
        aggregate.add(sent, samples)
    replayed = {}
    if isinstance(strategy, ReplayStrategy):
        for name in model.weights:
            scale = 2.0 ** aggregate.plan.shifts[name]
            values = np.rint(np.stack([row[name].astype(np.float64) for row in rows]) * scale).astype(np.int64)
            replayed[name] = strategy.reduce(values) / scale
    return Finished(1, model, aggregate.mean(), form, replayed=replayed)


def rounds(strategy: Strategy, form: Form = "delta") -> list[list[float]]:
    """The model after each of the two rounds, float64."""
    state = strategy.init(ModelInfo({"w": BASE}))
    models = []
    for clients in ROUNDS:
        updates = [{"w": np.array(client)} for client in clients]
        state = strategy.apply(state, finish(strategy, {"w": state.weights["w"]}, updates, form))
        models.append(state.weights["w"].tolist())
    return models


@pytest.mark.parametrize("form", get_args(Form))
def test_federated_averaging_by_hand(form: Form) -> None:
    assert rounds(make("fedavg"), form)[0] == pytest.approx([0.875, -1.375], abs=1e-12)


@pytest.mark.parametrize("form", get_args(Form))
def test_fedavgm_by_hand(form: Form) -> None:
    first, second = rounds(make("fedavgm", beta=0.9, rate=1.0), form)
    assert first == pytest.approx([0.875, -1.375], abs=1e-7)
    assert second == pytest.approx([1.075, -0.5], abs=1e-6)


@pytest.mark.parametrize("form", get_args(Form))
def test_fedadam_by_hand(form: Form) -> None:
    first, second = rounds(make("fedadam"), form)
    assert first == pytest.approx([0.907677791606, -1.901587076866], abs=1e-7)
    assert second == pytest.approx([0.960564662585, -1.768666413451], abs=1e-6)


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([(1, 1), (1.1, 0.9), (0.9, 1.2), (1.05, 1), (9, -7)], (1.05, 1.0)),
        ([(1, 1), (1.1, 0.9), (0.9, 1.2), (1.05, 1)], (1.025, 1.0)),
        ([(1, 0.2), (0.2, 0.5), (0.5, 1)], (0.5, 0.5)),
        ([(3, -4)], (3.0, -4.0)),
    ],
)
def test_the_median_by_hand(values: list[tuple[float, float]], median: tuple[float, float]) -> None:
    fixed = np.rint(np.array(values) * 2.0**40).astype(np.int64)
    strategy = make("median")
    assert isinstance(strategy, Median)
    assert (strategy.reduce(fixed) / 2.0**40).tolist() == pytest.approx(median, abs=1e-11)


MODEL: Final[Tensors] = {
    "w": np.random.default_rng(1).normal(size=40).astype(np.float32),
    "norm.running_var": np.ones(3, np.float32),
    "norm.num_batches_tracked": np.array(7, np.int64),
    "frozen": np.array([5.0], np.float32),
}


BUFFERS: Final = ("norm.running_var", "norm.num_batches_tracked")


def updates_of(model: Tensors, count: int = 3, scale: float = 0.1) -> list[Tensors]:
    rng = np.random.default_rng(2)

    def moved(value: Array) -> Array:
        step = rng.normal(scale=scale, size=value.shape).astype(value.dtype) if value.dtype.kind == "f" else 4
        return np.asarray(value + step)

    return [{name: moved(value) for name, value in model.items() if name != "frozen"} for _ in range(count)]


def after_one_round(strategy: Strategy, form: Form, scale: float = 0.1) -> GlobalState:
    trained = {name: value for name, value in MODEL.items() if name != "frozen"}
    finished = finish(
        strategy, trained, updates_of(MODEL, scale=scale), form, ("norm.running_var", "norm.num_batches_tracked")
    )
    return strategy.apply(strategy.init(ModelInfo(MODEL)), finished)


@pytest.mark.parametrize("scale", [0.1, 1e-6, 500.0])
@pytest.mark.parametrize(("name", "parameters"), [("fedprox", {"mu": 0.0}), ("fedavgm", {"beta": 0.0})])
def test_without_their_parameter_they_have_the_bytes_of_federated_averaging(
    name: str, parameters: dict[str, float], scale: float
) -> None:
    own = after_one_round(make(name, **parameters), "delta", scale).weights
    assert encode(own) == encode(after_one_round(make("fedavg"), "delta", scale).weights)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedavgm", "fedadam", "median"])
@pytest.mark.parametrize("form", get_args(Form))
def test_no_strategy_steps_buffers_counters_or_frozen_tensors(name: str, form: Form) -> None:
    state, average = after_one_round(make(name), form), after_one_round(make("fedavg"), form)
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


def test_the_weight_of_an_update_is_its_number_of_samples() -> None:
    header = UpdateHeader(job="j", round=1, attempt=1, client="c", samples=17, base="", token="")
    assert make("fedavg").weight(header) == 17
    assert make("fedavg").max_weight() == Job().cohort.max_samples


def test_every_strategy_that_a_job_may_name_is_there() -> None:
    assert set(strategies.STRATEGIES) == set(get_args(messages.Strategy))
