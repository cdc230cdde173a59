"""The exact sum: the same bytes in any order, the correct mean, no overflow."""

import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.messages import tensors as payload
from broker.messages.tensors import DTYPES, FLOATS, Array, Tensors
from server import aggregator, values
from server.aggregator import Aggregate, Plan

Update = tuple[Tensors, int]

BLOCK = values.READ


def plan_for(base: Tensors, max_samples: int, *, buffers: frozenset[str] = frozenset()) -> Plan:
    return aggregator.plan(base, buffers, max_samples)


def mean_of(plan: Plan, updates: list[Update]) -> Tensors:
    aggregate = Aggregate(plan)
    for tensors, samples in updates:
        aggregate.add(tensors, samples)
    return cast_like(plan, aggregate.mean())


def cast_like(plan: Plan, mean: Mapping[str, Array]) -> Tensors:
    """The mean in the dtypes of the updates, as a strategy casts it."""
    return {name: np.asarray(array.astype(DTYPES[plan.layout[name][0]])) for name, array in mean.items()}


def single(value: float, dtype: str = "F64") -> Tensors:
    return {"w": np.array([value], DTYPES[dtype])}


def model(rng: np.random.Generator) -> Tensors:
    """A tensor of every dtype, a 0-d one, an empty one, and one of several blocks."""
    every = {code: rng.normal(size=(3, 5)).astype(dtype) for code, dtype in DTYPES.items()}
    shapes = {"scalar": rng.normal(size=()), "none": np.zeros((0, 4), np.float32), "steps": rng.integers(99, size=())}
    return {**every, **{k: np.asarray(v) for k, v in shapes.items()}, "long": rng.normal(size=2 * BLOCK + 3)}


def fifty(rng: np.random.Generator) -> list[Update]:
    return [(model(rng), int(rng.integers(1, 700))) for _ in range(50)]


def exact_mean(arrays: list[Array], samples: list[int]) -> NDArray[np.longdouble]:
    total = sum(count * array.astype(np.longdouble) for array, count in zip(arrays, samples, strict=True))
    return np.asarray(total / np.longdouble(sum(samples)), np.longdouble)


def steps_apart(first: Array, second: Array) -> Any:
    """Distance in floating-point numbers of their dtype."""
    kind = np.dtype(f"i{first.dtype.itemsize}")
    magnitude = (1 << (8 * first.dtype.itemsize - 1)) - 1

    def place(array: Array) -> NDArray[np.int64]:
        bits = np.ascontiguousarray(array).view(kind).astype(np.int64)
        return np.where(bits < 0, -(bits & magnitude), bits)

    return np.abs(place(first) - place(second))


@pytest.fixture(scope="module")
def updates() -> list[Update]:
    return fifty(np.random.default_rng(11))


@pytest.fixture(scope="module")
def plan(updates: list[Update]) -> Plan:
    return plan_for(model(np.random.default_rng(12)), sum(samples for _, samples in updates))


def test_twenty_orders_give_the_same_bytes(plan: Plan, updates: list[Update]) -> None:
    rng = np.random.default_rng(1)
    digests = {payload.encode(mean_of(plan, [updates[i] for i in rng.permutation(50)])) for _ in range(20)}
    assert len(digests) == 1


def test_a_plain_sum_in_another_order_would_not_give_the_same_bytes(updates: list[Update]) -> None:
    # Otherwise the test above could not fail.
    weights = [tensors["F32"] * np.float32(samples) for tensors, samples in updates]
    assert (np.cumsum(weights, axis=0)[-1] != np.cumsum(weights[::-1], axis=0)[-1]).any()


def test_three_partial_aggregators_merged_in_any_order_give_the_same_bytes(plan: Plan, updates: list[Update]) -> None:
    want = payload.encode(mean_of(plan, updates))
    rng = np.random.default_rng(2)
    for _ in range(6):
        parts = [Aggregate(plan) for _ in range(3)]
        for tensors, samples in updates:
            parts[rng.integers(3)].add(tensors, samples)
        whole = Aggregate(plan)
        for i in rng.permutation(3):
            whole.merge(parts[i])
        assert payload.encode(cast_like(plan, whole.mean())) == want
        assert (whole.updates, whole.weight) == (50, plan.max_weight)


def test_the_mean_is_that_of_exact_arithmetic(plan: Plan, updates: list[Update]) -> None:
    got = mean_of(plan, updates)
    for name in ("F64", "scalar", "long"):
        want = exact_mean([tensors[name] for tensors, _ in updates], [samples for _, samples in updates])
        largest = max(float(np.abs(tensors[name]).max()) for tensors, _ in updates)
        assert float(np.abs(got[name] - want).max()) <= 1e-9 * largest


@pytest.mark.parametrize("code", sorted(FLOATS - {"F64"}))
def test_other_floats_get_the_exact_mean_cast_once(plan: Plan, updates: list[Update], code: str) -> None:
    want = exact_mean([tensors[code] for tensors, _ in updates], [samples for _, samples in updates])
    got = mean_of(plan, updates)[code]
    assert got.dtype == DTYPES[code]
    # Next to 0 the unit of the fixed point is coarser than that of a float.
    large = np.abs(want) > 1e-3
    assert large.sum() > 10
    apart = steps_apart(got, want.astype(np.float64).astype(DTYPES[code]))
    assert apart[large].max() <= 1


def test_two_clients_by_hand() -> None:
    got = mean_of(plan_for(single(0.0), 4), [(single(1.0), 1), (single(5.0), 3)])
    assert got["w"].tolist() == [4.0]


@pytest.mark.parametrize("code", sorted(FLOATS))
def test_by_hand_in_each_float_dtype(code: str) -> None:
    got = mean_of(plan_for(single(0.0, code), 100), [(single(-2.0, code), 25), (single(0.5, code), 75)])
    assert got["w"].dtype == DTYPES[code]
    assert got["w"].astype(float).tolist() == [-0.125]


def test_one_update_comes_back_as_it_was() -> None:
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(size=100).astype(np.float32)}
    assert (mean_of(plan_for(weights, 600), [(weights, 600)])["w"] == weights["w"]).all()


@pytest.mark.parametrize("code", [code for code in DTYPES if code not in FLOATS and code != "BOOL"])
def test_integers_take_the_largest_value(code: str) -> None:
    dtype = DTYPES[code]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    base = {"n": np.zeros(3, dtype)}
    given = [({"n": np.array(values, dtype)}, 1) for values in ([low, 3, 0], [low, 9, high], [low, 5, 1])]
    got = mean_of(plan_for(base, 3), given)["n"]
    assert (got.dtype, got.tolist()) == (dtype, [low, 9, high])


def test_a_boolean_is_true_where_any_is() -> None:
    base = {"mask": np.zeros(3, bool)}
    given = [({"mask": np.array(values)}, 1) for values in ([False, True, False], [False, False, True])]
    assert mean_of(plan_for(base, 2), given)["mask"].tolist() == [False, True, True]


def test_a_single_number_and_nothing_at_all_keep_their_shape() -> None:
    base = {"n": np.array(3), "w": np.array(0.5), "none": np.zeros((2, 0))}
    got = mean_of(plan_for(base, 3), [(base, 1), (base, 2)])
    assert {name: (type(array), array.shape) for name, array in got.items()} == {
        "n": (np.ndarray, ()),
        "w": (np.ndarray, ()),
        "none": (np.ndarray, (2, 0)),
    }
    assert (int(got["n"]), float(got["w"])) == (3, 0.5)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_every_element_of_a_large_tensor_is_added(size: int) -> None:
    weights = {"w": np.arange(size, dtype=np.float64)}
    got = mean_of(plan_for(weights, 4), [(weights, 1), ({"w": weights["w"] + 4}, 3)])
    assert (got["w"] == weights["w"] + 3).all()


def test_memory_that_is_not_in_rows_is_read_in_rows() -> None:
    weights = np.arange(6.0).reshape(2, 3)
    base = {"w": np.asfortranarray(weights)}
    assert mean_of(plan_for(base, 1), [(base, 1)])["w"].tolist() == weights.tolist()


def test_an_update_that_was_added_may_be_overwritten() -> None:
    given = {"w": np.ones(2), "n": np.array([5])}
    aggregate = Aggregate(plan_for(given, 10))
    aggregate.add(given, 5)
    before = payload.encode(aggregate.mean())
    given["w"][:], given["n"][:] = 9, 9
    assert payload.encode(aggregate.mean()) == before


def test_a_mean_is_that_of_the_sums_when_it_is_asked_for() -> None:
    aggregate = Aggregate(plan_for({"w": np.ones(2), "n": np.array([5])}, 10))
    aggregate.add({"w": np.ones(2), "n": np.array([5])}, 5)
    mean = aggregate.mean()
    w = mean["w"]
    aggregate.add({"w": np.zeros(2), "n": np.array([7])}, 5)
    assert (w.tolist(), mean["w"].tolist(), mean["n"].tolist()) == ([1.0, 1.0], [0.5, 0.5], [7])
    assert (sorted(mean), len(mean)) == (["n", "w"], 2)


@pytest.mark.parametrize("code", sorted(FLOATS))
@pytest.mark.parametrize("max_samples", [1, 7, 600, 10**6, 2**32])
@pytest.mark.parametrize("clients", [1, 5])
def test_nothing_overflows_at_the_bound_with_all_samples(code: str, max_samples: int, clients: int) -> None:
    clients = min(clients, max_samples)
    plan = plan_for(single(1.0, code), max_samples)
    samples = [max_samples // clients] * (clients - 1)
    samples.append(max_samples - sum(samples))
    for sign in (1.0, -1.0):
        extreme = single(sign * plan.bounds["w"], code)
        assert mean_of(plan, [(extreme, count) for count in samples])["w"] == extreme["w"]


def test_opposite_extremes_cancel() -> None:
    plan = plan_for(single(1.0), 2**20)
    bound = plan.bounds["w"]
    assert mean_of(plan, [(single(bound), 2**19), (single(-bound), 2**19)])["w"] == 0.0


def test_more_samples_than_planned_are_refused_and_change_nothing() -> None:
    aggregate = Aggregate(plan_for(single(1.0), 10))
    aggregate.add(single(1.0), 9)
    with pytest.raises(ValueError, match="a weight of 11, planned for 10"):
        aggregate.add(single(5.0), 2)
    assert (aggregate.weight, aggregate.updates, float(aggregate.mean()["w"][0])) == (9, 1, 1.0)


def test_sums_of_other_plans_and_too_many_samples_do_not_merge() -> None:
    plan = plan_for(single(1.0), 10)
    parts = [Aggregate(plan), Aggregate(plan), Aggregate(plan_for(single(2.0), 10))]
    for part in parts:
        part.add(single(1.0), 6)
    for other in parts[1:]:
        with pytest.raises(ValueError, match="do not belong to one round"):
            parts[0].merge(other)
    assert (parts[0].weight, parts[0].updates, float(parts[0].mean()["w"][0])) == (6, 1, 1.0)


def test_there_is_no_mean_of_no_updates() -> None:
    with pytest.raises(ValueError, match="the mean of no updates"):
        Aggregate(plan_for(single(1.0), 10)).mean()


@pytest.mark.parametrize(
    ("largest", "bound"), [(0.0, 2.0**10), (1e-30, 2.0**10), (1.0, 2.0**10), (-3.0, 2.0**12), (1e30, 2.0**110)]
)
def test_the_bound_follows_the_largest_weight(largest: float, bound: float) -> None:
    plan = plan_for({"w": np.array([0.0, largest])}, 1000)
    assert plan.bounds == {"w": bound}
    # 10 bits for up to 1000 samples, but no more than a float64 has.
    assert plan.shifts["w"] == 50 - np.log2(bound)


def test_running_statistics_may_get_a_thousand_times_as_far() -> None:
    base = {"mean": np.zeros(2), "w": np.zeros(2)}
    plan = plan_for(base, 1000, buffers=frozenset({"mean"}))
    assert plan.bounds == {"mean": 2.0**20, "w": 2.0**10}


def test_the_largest_float64_has_a_bound() -> None:
    plan = plan_for(single(1e308), 1000)
    assert plan.bounds["w"] == 2.0**1023
    assert mean_of(plan, [(single(2.0**1023), 500), (single(-(2.0**1022)), 500)])["w"] == 2.0**1021


def test_random_models_are_never_further_off_than_one_unit_of_their_scale() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        scale = 10.0 ** rng.integers(-12, 30)
        shape = tuple(rng.integers(0, 6, size=rng.integers(0, 4)).tolist())
        base = {"w": np.asarray(scale * rng.normal(size=shape))}
        samples = rng.integers(1, 10 ** rng.integers(1, 7), size=rng.integers(1, 9)).tolist()
        plan = plan_for(base, sum(samples) + int(rng.integers(0, 1000)))
        arrays = [base["w"] + plan.bounds["w"] / 2 * rng.uniform(-1, 1, size=shape) for _ in samples]
        got = mean_of(plan, [({"w": array}, count) for array, count in zip(arrays, samples, strict=True)])["w"]
        assert got.shape == shape
        off = np.abs(got - exact_mean(arrays, samples))
        assert (off <= 2.0 ** -plan.shifts["w"] + 1e-15 * np.abs(got)).all()


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    weights = {"w": np.ones(1 << 20, np.float32)}
    aggregate = Aggregate(plan_for(weights, 1000))
    aggregate.add(weights, 1)
    tracemalloc.start()
    try:
        for _ in range(20):
            aggregate.add(weights, 1)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_count_that_no_round_reaches_is_out_of_bounds() -> None:
    base = {"batches": np.array(7, np.int64), "mask": np.array([True])}
    bounds = aggregator.plan(base, frozenset(), 10).bounds
    assert bounds == {"batches": 7.0 + 2.0**31}


@pytest.mark.parametrize(("pattern", "bits"), [("*running_var", 30), ("2.*", 30), ("other", 20)])
def test_a_job_may_lift_the_bound_of_a_tensor(pattern: str, bits: int) -> None:
    plan = aggregator.plan({"2.running_var": np.ones(2)}, frozenset({"2.running_var"}), 1000, {pattern: 30})
    assert plan.bounds == {"2.running_var": 2.0**bits}


@pytest.mark.parametrize(("clients", "resolution"), [(10, 2.0**-32), (100, 2.0**-28), (10_000, 2.0**-22)])
def test_the_resolution_is_fine_enough_for_the_mean_of_small_changes(clients: int, resolution: float) -> None:
    """For weights up to 1 and the job's default `max_samples`; the changes of a round are far smaller."""
    rng = np.random.default_rng(clients)
    base = {"w": rng.uniform(-1, 1, 5000).astype(np.float32)}
    plan = aggregator.plan(base, frozenset(), clients * 100_000)
    assert 2.0 ** -plan.shifts["w"] == resolution
    aggregate, exact, total = Aggregate(plan), np.zeros(5000), 0
    for _ in range(clients):
        change, samples = rng.normal(scale=0.01, size=5000).astype(np.float32), int(rng.integers(1, 700))
        aggregate.add({"w": change}, samples)
        exact += change.astype(np.float64) * samples
        total += samples
    assert np.abs(aggregate.mean()["w"] - exact / total).max() <= 1e-6 * 0.01
