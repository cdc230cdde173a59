"""What holds for every strategy: the same bytes in whatever order updates come, and however their sums are split."""

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from broker.messages.tensors import Tensors, encode
from server.strategies.base import ModelInfo
from tests.support.strategy_rounds import Rounds, job_of, with_auxiliary

CLIENTS: Final = 6
STEPPED: Final = {"rate": 0.05, "v0": 1e-4}
GUARD: Final = {"name": "median", "multiple": 1.2, "first": 0.5}
EACH: Final[tuple[dict[str, Any], ...]] = (
    {"name": "fedavg"},
    {"name": "fedavg", "weights": "equal"},
    {"name": "fedprox"},
    {"name": "fedavgm"},
    {"name": "fedadagrad", **STEPPED},
    {"name": "fedadam", **STEPPED},
    {"name": "fedadam", **STEPPED, "bias_correction": True},
    {"name": "fedyogi", **STEPPED},
    {"name": "fednova"},
    {"name": "scaffold"},
    {"name": "feddyn"},
    {"name": "qfedavg", "q": 1.5},
    {"name": "median"},
    {"name": "trimmed_mean"},
    {"name": "krum"},
    {"name": "krum", "keep": 3},
    {"name": "fedadam", "over": {"name": "median"}, "local": {"name": "fedprox"}},
    {"name": "fedavgm", "over": {"name": "fednova"}},
    {"name": "fedyogi", "over": {"name": "krum", "keep": 2}},
)
ALL: Final = (*EACH, *({**each, "guard": GUARD} for each in EACH))

orders = draw.permutations(range(CLIENTS))
parts = draw.integers(1, 4)


def model() -> Tensors:
    rng = np.random.default_rng(4)
    return {
        "a": rng.normal(size=(5, 7)).astype(np.float32),
        "b": rng.normal(scale=30, size=11).astype(np.float16),
        "norm.running_var": np.ones(3, np.float32),
        "norm.count": np.array(3, np.int64),
    }


def updates(base: Tensors, seed: int, *, needs_auxiliary: bool) -> list[Tensors]:
    rng = np.random.default_rng(seed)

    def moved(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        size = 10.0 ** rng.uniform(-6, 1)
        return np.asarray(rng.normal(scale=size, size=tensor.shape)).astype(tensor.dtype)

    found = [
        {name: moved(each) if each.dtype.kind == "f" else each + 1 for name, each in base.items()}
        for _ in range(CLIENTS)
    ]
    if not needs_auxiliary:
        return found
    return with_auxiliary(found, [{name: moved(base[name]) for name in ("a", "b")} for _ in range(CLIENTS)])


@functools.lru_cache(maxsize=2)
def expected(number: int) -> bytes:
    return after_three_rounds(ALL[number])


def after_three_rounds(strategy: dict[str, Any], order: Sequence[int] = (), parts: int = 1) -> bytes:
    """The global state after three rounds, in bytes."""
    info = ModelInfo(model(), buffers=frozenset({"norm.running_var", "norm.count"}))
    rounds = Rounds(job_of(strategy), info, (10, 300, 5, 77, 1, 20), holders=9)
    for number in range(3):
        steps = [{"steps": float(3 + i), "global_loss": 2.0 / (1 + i)} for i in range(CLIENTS)]
        sent = updates(rounds.state.weights, number, needs_auxiliary=strategy["name"] == "scaffold")
        rounds.round(sent, steps, order=order, parts=parts)
    return encode(rounds.state.weights) + encode(rounds.state.server_state)


@pytest.mark.parametrize("number", range(len(ALL)), ids=[str(each) for each in ALL])
@given(order=orders, parts=parts)
@settings(max_examples=3, deadline=None, database=None)
def test_the_same_bytes_in_any_order_and_for_any_number_of_partial_sums(
    number: int, order: list[int], parts: int
) -> None:
    assert after_three_rounds(ALL[number], order, parts) == expected(number)


@given(multiple=draw.floats(0.5, 4.0))
@settings(max_examples=8, deadline=None, database=None)
def test_a_guard_bounds_what_one_client_can_change(multiple: float) -> None:
    """Whatever one client of six sends, the mean of the changes moves by at most a sixth of the guard's limit."""
    base: Tensors = {"w": np.zeros(20, np.float32)}
    rng = np.random.default_rng(5)
    honest: list[Tensors] = [{"w": rng.normal(size=20).astype(np.float32)} for _ in range(CLIENTS)]
    job = job_of({"name": "fedavg", "weights": "equal", "guard": {"name": "median", "multiple": multiple}})
    limit = multiple * float(np.median([np.linalg.norm(each["w"]) for each in honest]))

    def second_round(last: Tensors) -> np.ndarray[Any, Any]:
        rounds = Rounds(job, ModelInfo(base), [5] * CLIENTS)
        rounds.round(honest)
        return rounds.round([*honest[:-1], last]).weights["w"]

    still: Tensors = {"w": np.zeros(20, np.float32)}
    for wild in (np.full(20, 500.0, np.float32), -300 * honest[0]["w"]):
        moved = second_round({"w": wild}) - second_round(still)
        assert float(np.linalg.norm(moved)) <= limit / CLIENTS * (1 + 1e-4)
