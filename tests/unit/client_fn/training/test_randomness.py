"""All generators that user code draws from are seeded for a block, and then as if nothing had been drawn."""

import random

import numpy as np
import pytest
import torch

from client_fn.training.randomness import seeded

pytestmark = pytest.mark.torch

Draws = tuple[float, float, float]


def draw() -> Draws:
    """One number of each generator."""
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002, S311 (as user code does)


def draw_seeded(seed: int) -> Draws:
    with seeded(seed):
        return draw()


def test_the_seed_decides_every_draw() -> None:
    first = draw_seeded(1)
    draw()
    assert draw_seeded(1) == first
    assert not set(draw_seeded(2)) & set(first)


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_every_seed_of_a_message_can_be_used(seed: int) -> None:
    assert draw_seeded(seed) == draw_seeded(seed)


def test_the_generators_go_on_where_they_were() -> None:
    for generators_seed in (torch.manual_seed, np.random.seed, random.seed):
        generators_seed(7)
    expected = [draw(), draw()]
    for generators_seed in (torch.manual_seed, np.random.seed, random.seed):
        generators_seed(7)
    before = draw()
    draw_seeded(1)
    assert [before, draw()] == expected


def test_they_go_on_after_an_error_too() -> None:
    torch.manual_seed(7)
    with pytest.raises(RuntimeError), seeded(1):
        torch.rand(5).view(3)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(state, torch.get_rng_state())
