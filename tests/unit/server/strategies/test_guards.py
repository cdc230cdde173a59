"""Guards: what one client can change is bounded, by a limit that is on record when the round opens."""

import math
from typing import Any, Final

import numpy as np
import pytest

from broker.messages.tensors import Tensors, encode
from server.strategies import guards
from server.strategies.base import ModelInfo
from tests.support.strategy_rounds import Rounds, changes, job_of, with_auxiliary

BASE: Final[Tensors] = {"w": np.array([1.0, -2.0])}
MODELS: Final[list[Tensors]] = [{"w": np.array([2.0, -2.5])}, {"w": np.array([0.5, -1.0])}]


def rounds_of(guard: dict[str, Any], model: Tensors = BASE, **strategy: Any) -> Rounds:
    strategy = {"name": "fedavg", "weights": "equal", **strategy, "guard": guard}
    return Rounds(job_of(strategy), ModelInfo(model), (10, 30, 5, 5, 5))


def test_a_fixed_norm_by_hand() -> None:
    """The source's uniform weights: both norms are 1.118."""
    rounds = rounds_of({"name": "fixed", "norm": 1.0})
    state = rounds.round(changes(BASE, MODELS))
    assert state.weights["w"].tolist() == pytest.approx((1.22360679775, -1.77639320225), abs=1e-9)
    assert rounds.finished is not None
    assert [share.norm for share in rounds.finished.shares.values()] == pytest.approx([1.118033988749895] * 2)


def one_far(scale: float) -> list[Tensors]:
    rows = [np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([1.0, 1.0]), np.array([scale, 0.0])]
    return [{"w": row} for row in rows]


def test_the_median_of_the_last_round_bounds_the_next() -> None:
    rounds = rounds_of({"name": "median", "multiple": 2.0})
    rounds.round(one_far(1.0))
    assert rounds.finished is not None
    assert all(share.clip == 1.0 for share in rounds.finished.shares.values()), "the first round has no limit"
    before = rounds.state.weights["w"]
    rounds.round(one_far(500.0))
    assert rounds.finished.shares["c-03"].clip == pytest.approx(2.0 / 500.0)
    assert [rounds.finished.shares[f"c-0{i}"].clip for i in range(3)] == [1.0] * 3
    moved = rounds.state.weights["w"] - before
    assert moved.tolist() == pytest.approx(((1 + 0 + 1 + 2) / 4, (0 + 1 + 1 + 0) / 4), abs=1e-6)


def test_the_first_round_may_have_a_limit_of_its_own() -> None:
    rounds = rounds_of({"name": "median", "first": 0.5})
    rounds.round(one_far(500.0))
    assert rounds.finished is not None
    assert rounds.finished.shares["c-03"].clip == pytest.approx(0.001)


def test_a_norm_of_zero_is_left_alone() -> None:
    rounds = rounds_of({"name": "median"})
    still: list[Tensors] = [{"w": np.zeros(2)}] * 3
    assert rounds.round(still).weights["w"].tolist() == [1.0, -2.0]
    rounds.round(one_far(1.0))
    limit = guards.create(rounds.strategy.job).limits(rounds.state.server_state)
    rounds.round(still)
    assert guards.create(rounds.strategy.job).limits(rounds.state.server_state) == limit, "of 0 no limit can be made"
    assert guards.clip(0.0, 0.0) == 1.0


def test_a_quantile_by_hand() -> None:
    rounds = rounds_of({"name": "quantile", "quantile": 0.5, "rate": 0.2, "first": 1.2})
    rounds.round(one_far(10.0))
    limit, _ = rounds.strategy.guard.limits(rounds.state.server_state)
    assert limit == pytest.approx(1.2 * math.exp(-0.2 * (2 / 4 - 0.5)))
    rounds.round(one_far(10.0)[:2])
    limit, _ = rounds.strategy.guard.limits(rounds.state.server_state)
    assert limit == pytest.approx(1.2 * math.exp(-0.2 * (2 / 2 - 0.5)))


def test_what_is_no_weight_is_not_scaled() -> None:
    model: Tensors = {"w": np.zeros(2, np.float32), "norm.running_var": np.ones(2, np.float32)}
    updates: list[Tensors] = [{"w": np.full(2, 100.0), "norm.running_var": np.full(2, 0.5)}] * 2
    job = job_of({"name": "fedavg", "guard": {"name": "fixed", "norm": 1.0}})
    state = Rounds(job, ModelInfo(model, buffers=frozenset({"norm.running_var"})), (1, 1)).round(updates)
    assert state.weights["norm.running_var"].tolist() == [1.5, 1.5]
    assert float(np.linalg.norm(state.weights["w"])) == pytest.approx(1.0)


def test_auxiliary_tensors_have_a_limit_of_their_own() -> None:
    job = job_of({"name": "scaffold", "guard": {"name": "median", "multiple": 1.0}})
    bench = Rounds(job, ModelInfo(BASE), (1, 1, 1))
    controls: list[Tensors] = [{"w": np.array([scale, 0.0])} for scale in (10.0, 20.0, 30.0)]
    updates = with_auxiliary([{"w": np.array([0.1, 0.0])}] * 3, controls)
    bench.round(updates)
    bench.round(updates)
    assert bench.finished is not None
    assert [share.auxiliary_clip for share in bench.finished.shares.values()] == pytest.approx([1.0, 1.0, 20 / 30])
    assert [share.clip for share in bench.finished.shares.values()] == [1.0] * 3


@pytest.mark.parametrize("name", ["median", "krum"])
def test_robust_rules_see_guarded_updates(name: str) -> None:
    far = [{"w": np.array([50.0, 0.0])}, {"w": np.array([60.0, 0.0])}, *one_far(70.0)[2:], {"w": np.array([80.0, 0.0])}]
    rounds = rounds_of({"name": "fixed", "norm": 1.0}, over={"name": name})
    before = rounds.state.weights["w"]
    moved = rounds.round(far).weights["w"] - before
    assert float(np.linalg.norm(moved)) <= 1.0 + 1e-6


def test_a_guard_that_touches_nothing_leaves_the_bytes() -> None:
    guarded, plain = (
        rounds_of({"name": "fixed", "norm": 100.0}),
        Rounds(job_of({"name": "fedavg", "weights": "equal"}), ModelInfo(BASE), (10, 30, 5, 5, 5)),
    )
    updates = changes(BASE, MODELS)
    assert encode(guarded.round(updates).weights) == encode(plain.round(updates).weights)
