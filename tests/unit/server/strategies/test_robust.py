"""Robust rules by hand: the median, the trimmed mean, Krum and Multi-Krum."""

from typing import Any, Final

import numpy as np
import pytest

from broker.messages.tensors import Tensors
from server.strategies.base import ModelInfo
from server.strategies.robust import Nearest
from tests.support.strategy_rounds import Rounds, job_of

POINTS: Final = ((1, 1), (1.1, 0.9), (0.9, 1.2), (1.05, 1), (9, -7))
THREE: Final = ((1, 0.2), (0.2, 0.5), (0.5, 1))
ONES: Final = ((0.2,), (0.7,), (1.0,), (1.0,), (1.0,), (1.0,))

Points = tuple[tuple[float, ...], ...]


def reduced(strategy: dict[str, Any], points: Points) -> list[float]:
    """What the clients' points come to, for a model at the origin."""
    model: Tensors = {"w": np.zeros(len(points[0]))}
    rounds = Rounds(job_of(strategy), ModelInfo(model), [5] * len(points))
    state = rounds.round([{"w": np.array(point, np.float64)} for point in points])
    return [float(value) for value in state.weights["w"]]


@pytest.mark.parametrize(
    ("strategy", "points", "expected"),
    [
        ({"name": "median"}, POINTS, (1.05, 1.0)),
        ({"name": "median"}, POINTS[:4], (1.025, 1.0)),
        ({"name": "median"}, THREE, (0.5, 0.5)),
        ({"name": "trimmed_mean", "share": 0.2}, POINTS, (1.05, 0.9666666666666667)),
        ({"name": "trimmed_mean", "share": 0.4}, POINTS, (1.05, 1.0)),
        ({"name": "krum", "faulty": 1}, POINTS, (1.05, 1.0)),
        ({"name": "krum", "faulty": 1, "keep": 3}, POINTS, (1.05, 0.966666666667)),
        ({"name": "krum", "faulty": 1}, ONES, (1.0,)),
        ({"name": "fedavg", "over": {"name": "median"}}, POINTS, (1.05, 1.0)),
        ({"name": "fedavgm", "beta": 0.0, "over": {"name": "krum", "faulty": 1}}, POINTS, (1.05, 1.0)),
    ],
    ids=str,
)
def test_by_hand(strategy: dict[str, Any], points: Points, expected: tuple[float, ...]) -> None:
    assert reduced(strategy, points) == pytest.approx(expected, abs=1e-9)


def test_scores_of_krum_by_hand() -> None:
    points = np.array(POINTS)
    nearest = Nearest([float(np.linalg.norm(point)) for point in points], 1, 3)
    nearest.look(points)
    assert nearest.scores() == pytest.approx([0.0225, 0.0325, 0.1125, 0.015, 252.0225], rel=1e-5)
    assert nearest.kept() == [3, 0, 1]


@pytest.mark.parametrize("outlier", [1.0, 1e6, 1e30])
def test_distances_are_the_same_bits_for_any_blocks_of_elements_in_any_order(outlier: float) -> None:
    rng = np.random.default_rng(3)
    changes = rng.normal(scale=0.01, size=(7, 5_000))
    changes[2] *= outlier
    norms = [float(np.linalg.norm(row)) for row in changes]

    def scores(order: np.ndarray[Any, Any], block: int) -> list[float]:
        nearest = Nearest(norms, 1, 2)
        for start in range(0, len(order), block):
            nearest.look(changes[:, order[start : start + block]])
        return nearest.scores()

    expected = scores(np.arange(5_000), 5_000)
    assert scores(rng.permutation(5_000), 64) == expected
    assert scores(rng.permutation(5_000), 999) == expected


@pytest.mark.parametrize("forged", [-1.0, -3.0, 5.0])
def test_one_huge_update_does_not_hide_another_attack(forged: float) -> None:
    # So many values that a unit for the huge update is larger than any value of the others.
    rng, size = np.random.default_rng(0), 400_000
    common = rng.normal(size=size) / size**0.5
    changes = common + rng.normal(scale=0.5, size=(10, size)) / size**0.5
    changes[0] *= forged
    changes[1] = rng.uniform(-1e3, 1e3, size)
    squares = [[float(np.sum(np.square(one - other))) for other in changes] for one in changes]
    exact = [sum(sorted(row)[1:7]) for row in squares]
    nearest = Nearest([float(np.linalg.norm(row)) for row in changes], 2, 8)
    nearest.look(changes)
    assert nearest.scores()[2:] == pytest.approx(exact[2:], rel=1e-5)
    assert nearest.kept() == sorted(range(10), key=lambda row: exact[row])[:8]


def test_updates_without_any_change_are_all_alike() -> None:
    assert reduced({"name": "krum", "faulty": 1, "keep": 2}, ((0.0, 0.0),) * 5) == [0.0, 0.0]


def test_the_first_client_is_kept_of_equally_near_ones() -> None:
    model: Tensors = {"w": np.zeros(1)}
    rounds = Rounds(job_of({"name": "krum", "faulty": 1}), ModelInfo(model), [5] * 5)
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        state = rounds.round([{"w": np.array([float(value)])} for value in (1, 1, 2, 2, 3)], order=order)
        assert state.weights["w"].tolist() == [1.0 + (order[0] == 4)]
