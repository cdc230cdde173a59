"""Values are read block by block as numpy converts them, and their largest magnitude is found without a copy."""

import tracemalloc

import numpy as np
import pytest

from broker.messages.tensors import DTYPES, FLOATS, Array
from broker.messages.update_forms import BLOCK, NOT_FINITE
from server import values
from server.values import READ, Scaled, Values

SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, READ, READ + BLOCK + 3)


def scaled(size: int, seed: int = 0) -> tuple[Scaled, Array]:
    """A tensor of int8 values, and what they are as float64."""
    rng = np.random.default_rng(seed)
    integers = rng.integers(-128, 128, size).astype(np.int8)
    exponents = rng.integers(-40, 3, -(-size // BLOCK)).astype(np.int16)
    exact = integers * 2.0 ** np.repeat(exponents, BLOCK)[:size].astype(np.float64)
    return Scaled(integers, exponents, (size,)), exact


def read(tensor: Values, scale: float = 1.0) -> Array:
    parts = [block.copy() for _, block in values.blocks(tensor, np.empty(READ), scale)]
    return np.concatenate([np.zeros(0), *parts])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("code", sorted(FLOATS))
def test_floats_are_read_as_numpy_converts_them(code: str, size: int) -> None:
    tensor = np.random.default_rng(size).normal(size=size).astype(DTYPES[code])
    assert read(tensor).tolist() == tensor.astype(np.float64).tolist()
    assert read(tensor, 0.5).tolist() == (0.5 * tensor.astype(np.float64)).tolist()


@pytest.mark.parametrize("size", SIZES)
def test_integers_are_read_times_their_block_s_power_of_two(size: int) -> None:
    tensor, exact = scaled(size)
    assert read(tensor).tolist() == exact.tolist()
    assert read(tensor, 0.3).tolist() == pytest.approx((0.3 * exact).tolist(), rel=1e-15)
    assert tensor.size == size


def test_rows_are_read_whatever_the_memory_s_order_is_and_a_number_is_one_value() -> None:
    rows = np.arange(6.0).reshape(2, 3)
    assert read(np.asfortranarray(rows)).tolist() == rows.reshape(-1).tolist()
    assert read(np.array(2.5)).tolist() == [2.5]


def test_each_block_is_where_it_says() -> None:
    tensor, exact = scaled(READ + 5)
    target = np.zeros(READ + 5)
    for where, block in values.blocks(tensor, np.empty(READ)):
        target[where] = block
    assert (target == exact).all()


@pytest.mark.parametrize("size", SIZES)
def test_values_lie_one_after_the_other(size: int) -> None:
    tensor, exact = scaled(size)
    for given in (tensor, exact.astype(np.float32)):
        assert values.dense(given, np.dtype(np.float32)).tolist() == exact.astype(np.float32).tolist()


@pytest.mark.parametrize("size", SIZES)
def test_the_largest_magnitude_of_integers(size: int) -> None:
    for seed in range(5):
        tensor, exact = scaled(size, seed)
        assert values.largest(tensor) == float(np.abs(exact).max(initial=0.0))


def test_a_block_of_zeros_counts_with_its_scale() -> None:
    """Otherwise zero times a power of two that no float64 holds would be NaN in the sum."""
    zeros = np.zeros(BLOCK + 1, np.int8)
    assert values.largest(Scaled(zeros, np.array([3, 1000], np.int16), (BLOCK + 1,))) == 2.0**1000


def test_a_block_that_was_not_finite_is_not_finite() -> None:
    exponents = np.array([0, NOT_FINITE], np.int16)
    assert np.isnan(values.largest(Scaled(np.ones(BLOCK + 1, np.int8), exponents, (BLOCK + 1,))))


@pytest.mark.parametrize("code", sorted(FLOATS))
def test_the_largest_magnitude_of_floats(code: str) -> None:
    rng = np.random.default_rng(7)
    for sign in (1, -1):
        tensor = np.asarray(sign * np.abs(rng.normal(size=300))).astype(DTYPES[code])
        assert values.largest(tensor) == float(np.abs(tensor.astype(np.float64)).max())
    mixed = rng.normal(size=300).astype(DTYPES[code])
    assert values.largest(mixed) == float(np.abs(mixed.astype(np.float64)).max())
    assert values.largest(np.zeros((3, 0), DTYPES[code])) == 0.0
    assert values.largest(np.array(-0.5, DTYPES[code])) == 0.5
    assert values.largest(np.array([-0.0], DTYPES[code])) == 0.0


@pytest.mark.parametrize("code", sorted(FLOATS))
@pytest.mark.parametrize("wild", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(code: str, wild: float) -> None:
    tensor = np.array([[1.0, wild], [-2.0, 0.0]], DTYPES[code])
    assert not np.isfinite(values.largest(tensor))


@pytest.mark.parametrize("code", [code for code in DTYPES if code not in FLOATS and code != "BOOL"])
def test_integers_of_the_model_have_a_magnitude_too(code: str) -> None:
    low = np.iinfo(DTYPES[code]).min
    assert values.largest(np.array([low, 5], DTYPES[code])) == max(5.0, -float(low))


def test_reading_needs_no_memory_of_the_tensor_s_size() -> None:
    tensor, _ = scaled(1 << 21)
    half, buffer = np.ones(1 << 21, np.float16), np.empty(READ)
    tracemalloc.start()
    try:
        for given in (tensor, half):
            values.largest(given)
            for _ in values.blocks(given, buffer):
                pass
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
