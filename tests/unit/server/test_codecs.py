"""Updates in fewer bits: the gate lets in what is well formed, and their exact sum has the same bytes in any order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as draw

from broker.messages import tensors as payload
from broker.messages.tensors import DTYPES, Array, Tensors
from broker.messages.update_forms import BLOCK, NOT_FINITE, SCALES, UpdateForm
from server import aggregator, codecs, shares, values
from server.aggregator import Aggregate
from server.errors import Refused
from server.gate import Checked, Expectation
from server.strategies.base import ModelInfo
from server.values import Scaled
from tests.support import gate_updates
from tests.support.rounded import rounded

ROUNDED: Final[tuple[UpdateForm, ...]] = ("bf16", "fp16", "int8")
WIRE: Final = {"bf16": "BF16", "fp16": "F16", "int8": "I8"}
MODEL: Final[Tensors] = {
    "w": np.linspace(-1, 1, 2 * BLOCK + 24, dtype=np.float32).reshape(4, -1),
    "b": np.zeros(10, np.float32),
    "point": np.zeros((), np.float32),
    "wide": np.ones(3),
    "narrow": np.ones(BLOCK + 1, np.float16),
    "none": np.zeros((0, 3), np.float32),
    "norm.mean": np.zeros(3, np.float32),
    "norm.count": np.array(3, np.int64),
    "mask": np.array([True, False]),
}
INFO: Final = ModelInfo(MODEL, buffers=frozenset({"norm.mean", "norm.count", "mask"}))
AUXILIARY: Final[Tensors] = {"aux.w": np.zeros_like(MODEL["w"])}
SCALES_COUNT: Final = 8
"""3 blocks of w, one of b, point and wide, none of none, and 2 of narrow."""

PLAN: Final = aggregator.plan({**MODEL, **AUXILIARY}, INFO.buffers, 10_000)


def expected(form: UpdateForm) -> Expectation:
    codec = codecs.of(form, PLAN.layout, INFO.weights)
    return replace(gate_updates.EXPECTED, plan=PLAN, start=MODEL, form="delta", codec=codec)


def changes(seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)

    def moved(base: Array) -> Array:
        return (
            np.asarray(rng.normal(scale=0.02, size=base.shape).astype(base.dtype)) if base.dtype.kind == "f" else base
        )

    return {name: moved(base) for name, base in {**MODEL, **AUXILIARY}.items()}


def sent(form: UpdateForm, seed: int = 0) -> Tensors:
    names = [name for name in INFO.weights if form == "int8" or name != "narrow"]
    return rounded(changes(seed), names, form)


def check(form: UpdateForm, tensors: Tensors | None = None, **header: Any) -> Checked:
    given = sent(form) if tensors is None else tensors
    return gate_updates.check(gate_updates.update(tensors=given, **{"update": form, **header}), expected=expected(form))


def refusal(form: UpdateForm, tensors: Tensors | None = None, **header: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        check(form, tensors, **header)
    assert refused.value.is_answer
    return refused.value.code, refused.value.reason


def decoded(tensors: Mapping[str, values.Values], name: str) -> Array:
    tensor = tensors[name]
    return values.dense(tensor, np.dtype(np.float64)).reshape(tensor.shape)


@pytest.mark.parametrize("form", ROUNDED)
def test_only_weights_that_become_smaller_are_rounded(form: UpdateForm) -> None:
    layout = expected(form).layout
    narrow = WIRE[form] if form == "int8" else "F16"
    assert {name: dtype for name, (dtype, _) in layout.items() if name != SCALES} == {
        **dict.fromkeys(("w", "b", "point", "wide", "none"), WIRE[form]),
        "narrow": narrow,
        "norm.mean": "F32",
        "norm.count": "I64",
        "mask": "BOOL",
        "aux.w": "F32",
    }
    if form == "int8":
        assert layout[SCALES] == ("I16", (SCALES_COUNT,))


def test_other_forms_travel_in_the_model_s_dtypes() -> None:
    for form in ("delta", "weights"):
        codec = codecs.of(form, PLAN.layout, INFO.weights)
        assert (codec.layout, codec.names, codec.is_rounded) == (PLAN.layout, (), False)


@pytest.mark.parametrize(("form", "error"), [("bf16", 2.0**-8), ("fp16", 2.0**-11), ("int8", 1 / 127)])
def test_a_rounded_update_is_read_as_it_was_sent(form: UpdateForm, error: float) -> None:
    of, got = changes(), check(form).tensors
    assert got.keys() == of.keys()
    for name in INFO.weights:
        largest = float(np.abs(of[name].astype(np.float64)).max(initial=0.0))
        assert np.abs(decoded(got, name) - of[name]).max(initial=0.0) <= error * largest
        assert got[name].shape == of[name].shape
    for name in ("norm.mean", "norm.count", "mask", "aux.w"):
        assert decoded(got, name).tolist() == of[name].tolist()


@pytest.mark.parametrize("form", ROUNDED)
def test_nothing_is_copied_to_read_an_update(form: UpdateForm) -> None:
    for tensor in check(form).tensors.values():
        of = tensor.integers if isinstance(tensor, Scaled) else tensor
        assert not of.flags.owndata
        assert not of.flags.writeable


@pytest.mark.parametrize("form", ROUNDED)
def test_a_rounded_update_may_be_no_larger_than_it_must_be(form: UpdateForm) -> None:
    size = len(gate_updates.update(tensors=sent(form), update=form))
    assert size <= expected(form).max_bytes
    whole = {name: np.zeros(10**6, np.float32) for name in "ab"}
    plan = aggregator.plan(whole, frozenset(), 10)
    limit = replace(expected(form), plan=plan, codec=codecs.of(form, plan.layout, tuple("ab"))).max_bytes
    assert limit < 2 * 10**6 * {"bf16": 2.0, "fp16": 2.0, "int8": 1.01}[form] + 100_000


def added(updates: Sequence[tuple[Checked, int]], order: Sequence[int], parts: int) -> bytes:
    sums = [Aggregate(PLAN) for _ in range(parts)]
    for place, number in enumerate(order):
        checked, weight = updates[number]
        sums[place % parts].add(checked.tensors, weight)
    for other in sums[1:]:
        sums[0].merge(other)
    return payload.encode(dict(sums[0].mean()))


@given(
    form=draw.sampled_from(ROUNDED),
    order=draw.permutations(range(7)),
    parts=draw.integers(1, 4),
    weights=draw.lists(draw.integers(1, 1400), min_size=7, max_size=7),
    seed=draw.integers(0, 1000),
)
@settings(max_examples=40, deadline=None, database=None)
def test_the_sum_has_the_same_bytes_in_any_order_and_for_any_partial_sums(
    form: UpdateForm, order: list[int], parts: int, weights: list[int], seed: int
) -> None:
    updates = [(check(form, sent(form, seed + i)), weight) for i, weight in enumerate(weights)]
    assert added(updates, order, parts) == added(updates, range(7), 1)


@given(
    form=draw.sampled_from(ROUNDED),
    clients=draw.lists(
        draw.tuples(draw.integers(1, 3000), draw.integers(-20, 9), draw.integers(0, 10**6)), min_size=1, max_size=3
    ),
)
@settings(max_examples=60, deadline=None, database=None)
def test_the_sum_is_that_of_rational_numbers(form: UpdateForm, clients: list[tuple[int, int, int]]) -> None:
    """A rounded value is an integer times a power of two. Where that is no finer than the sum, nothing is lost."""
    base: Tensors = {"w": np.ones(BLOCK + 9, np.float32)}
    plan = aggregator.plan(base, frozenset(), 10_000)
    codec, aggregate = codecs.of(form, plan.layout, ("w",)), Aggregate(plan)
    exact = [Fraction(0)] * base["w"].size
    for weight, exponent, seed in clients:
        rng = np.random.default_rng(seed)
        change = (rng.integers(-127, 128, base["w"].size) * 2.0**exponent / 127).astype(np.float32)
        # Multiples of the sum's unit, for all three forms.
        unit = 2.0 ** -plan.shifts["w"]
        tensors = rounded({"w": np.rint(change / unit).astype(np.float32) * np.float32(unit)}, ("w",), form)
        opened = codec.open(tensors)
        aggregate.add(opened, weight)
        for i, value in enumerate(decoded(opened, "w")):
            fixed = Fraction(float(value)) / Fraction(unit)
            # A value that is finer than the unit is rounded to it, alone and to even, whatever else is added.
            exact[i] += weight * Fraction(round(fixed))
    assert [Fraction(int(total)) for total in aggregate._sums["w"]] == exact


@given(
    exponents=draw.lists(draw.integers(-120, 4), min_size=SCALES_COUNT, max_size=SCALES_COUNT),
    wild=draw.none() | draw.integers(-32768, 32767),
    largest=draw.integers(0, 128),
    seed=draw.integers(0, 1000),
)
@settings(max_examples=80, deadline=None, database=None)
def test_whatever_a_stranger_sends_is_refused_or_can_t_overflow_the_sum(
    exponents: list[int], wild: int | None, largest: int, seed: int
) -> None:
    exponents = exponents if wild is None else [wild, *exponents[1:]]
    rng, tensors = np.random.default_rng(seed), sent("int8")
    for name in INFO.weights:
        drawn = rng.integers(-largest, min(largest, 127), tensors[name].shape, endpoint=True)
        tensors[name] = np.asarray(drawn, np.int8)
    blob = gate_updates.update(tensors={**tensors, SCALES: np.array(exponents, np.int16)}, update="int8")
    try:
        checked = gate_updates.check(blob, expected=expected("int8"))
    except Refused as refused:
        code = refused.code
    else:
        code = ""
    event(f"refused as {code!r}")
    if code:
        assert code in ("magnitude", "finite")
        return
    aggregate = Aggregate(PLAN)
    with np.errstate(all="raise"):
        aggregate.add(checked.tensors, PLAN.max_weight)
    for name in INFO.weights:
        limit = PLAN.max_weight * PLAN.bounds[name] * 2.0 ** PLAN.shifts[name]
        assert limit < 2.0**62
        total = aggregate._sums[name].astype(np.float64)
        assert np.abs(total).max(initial=0.0) <= limit
        exact = decoded(checked.tensors, name).reshape(-1) * 2.0 ** PLAN.shifts[name]
        assert np.abs(total / PLAN.max_weight - exact).max(initial=0.0) <= 0.5


@pytest.mark.parametrize("form", ROUNDED)
def test_norms_and_bounds_are_those_of_the_decoded_values(form: UpdateForm) -> None:
    tensors = check(form).tensors
    names = ("w", "b", "wide")
    exact = np.concatenate([decoded(tensors, name).reshape(-1) for name in names])
    assert shares.norm_of(tensors, names) == pytest.approx(float(np.linalg.norm(exact)), rel=1e-12)


@pytest.mark.parametrize("form", ROUNDED)
def test_a_factor_multiplies_what_is_added(form: UpdateForm) -> None:
    tensors = check(form).tensors
    whole, part = Aggregate(PLAN), Aggregate(PLAN)
    whole.add(tensors, 3)
    part.add(tensors, 3, {"w": 0.25})
    assert np.abs(part.mean()["w"] - 0.25 * whole.mean()["w"]).max() < 1e-9
    assert (part.mean()["b"] == whole.mean()["b"]).all()


@pytest.mark.parametrize("form", ROUNDED)
@pytest.mark.parametrize("other", ["delta", "weights", *ROUNDED])
def test_an_update_of_another_form_is_refused(form: UpdateForm, other: UpdateForm) -> None:
    if other == form:
        return
    code, reason = refusal(form, sent(other), update=other)
    assert code == "layout"
    assert reason == f"it holds {other!r}, the job asks for {form!r}: upgrade the function"


@pytest.mark.parametrize("form", ROUNDED)
def test_a_rounded_update_is_refused_where_none_is_asked_for(form: UpdateForm) -> None:
    code, reason = refusal("delta", sent(form), update=form)
    assert (code, "the job asks for 'delta'" in reason) == ("layout", True)


SCALES_SENT: Final = sent("int8")[SCALES]
BROKEN: Final[dict[str, Tensors]] = {
    "too few scales": {SCALES: SCALES_SENT[:-1]},
    "too many scales": {SCALES: np.zeros(10**6, np.int16)},
    "no scales at all": {SCALES: SCALES_SENT[:0]},
    "scales in rows": {SCALES: SCALES_SENT.reshape(2, -1)},
    "scales of another dtype": {SCALES: SCALES_SENT.astype(np.int8)},
    "float scales": {SCALES: SCALES_SENT.astype(np.float16)},
    "another shape": {"w": np.zeros((4, 5), np.int8)},
    "unsigned": {"w": np.zeros(MODEL["w"].shape, np.uint8)},
    "a weight that is not rounded": {"w": MODEL["w"]},
    "rounded statistics": {"norm.mean": np.zeros(3, np.int8)},
    "another tensor": {"w.scales": np.zeros(3, np.int16)},
}


@pytest.mark.parametrize("name", BROKEN)
def test_another_layout_is_refused(name: str) -> None:
    assert refusal("int8", {**sent("int8"), **BROKEN[name]})[0] == "layout"


def test_an_update_without_scales_is_refused() -> None:
    tensors = sent("int8")
    del tensors[SCALES]
    code, reason = refusal("int8", tensors)
    assert (code, SCALES in reason) == ("layout", True)


@pytest.mark.parametrize("exponent", [-121, -32768, 1017, NOT_FINITE - 1])
def test_an_exponent_that_no_client_writes_is_refused(exponent: int) -> None:
    scales = SCALES_SENT.copy()
    scales[1] = exponent
    code, reason = refusal("int8", {**sent("int8"), SCALES: scales})
    assert code == "magnitude"
    assert f"{exponent}" in reason
    assert "-120 to 1016 are possible" in reason


@pytest.mark.parametrize("form", ROUNDED)
def test_what_is_not_finite_is_refused_by_its_name(form: UpdateForm) -> None:
    tensors = sent(form)
    if form == "int8":
        tensors[SCALES] = np.full_like(SCALES_SENT, NOT_FINITE)
    else:
        tensors["b"] = np.full(10, np.nan, DTYPES[WIRE[form]])
    code, reason = refusal(form, tensors)
    assert (code, "b holds NaN or infinity" in reason or form == "int8") == ("finite", True)
    assert ("holds changes up to 65504" in reason) == (form == "fp16")


@pytest.mark.parametrize("form", ["bf16", "int8"])
@pytest.mark.parametrize("is_zero", [False, True])
def test_values_and_scales_out_of_bounds_are_refused(form: UpdateForm, *, is_zero: bool) -> None:
    tensors = sent(form)
    if form == "int8":
        scales = SCALES_SENT.copy()
        scales[:] = 11
        zeros = {name: np.zeros_like(tensors[name]) for name in INFO.weights}
        tensors |= {SCALES: scales, **(zeros if is_zero else {})}
    else:
        tensors["b"] = np.full(10, 2048.0, DTYPES["BF16"])
    code, reason = refusal(form, tensors)
    assert (code, "training.headroom lifts this bound" in reason) == ("magnitude", True)


def test_values_that_the_model_s_dtype_can_t_hold_are_refused() -> None:
    base: Tensors = {"w": np.full(4, 3000.0, np.float16)}
    plan = aggregator.plan(base, frozenset(), 10_000)
    codec = codecs.of("int8", plan.layout, ("w",))
    large: Tensors = {"w": np.full(4, 100, np.int8), SCALES: np.array([10], np.int16)}
    assert plan.bounds["w"] > 102_400
    blob = gate_updates.update(tensors=large, update="int8")
    with pytest.raises(Refused, match=r"reaches 102400, which is too large for the model's dtype"):
        gate_updates.check(blob, expected=replace(expected("int8"), plan=plan, start=base, codec=codec))
    assert codecs.largest_of("BF16") == float(np.finfo(np.float32).max) * (1 - 2.0**-8) / (1 - 2.0**-24)
