"""Updates of changes and of weights, and what a job's strategy asks of an update's tensors."""

from dataclasses import replace

import numpy as np
import pytest

from broker.messages import tensors as payload
from broker.messages.tensors import Tensors
from server import aggregator
from server.errors import Refused
from tests.support.gate_updates import EXPECTED, MODEL, code_of, pass_gate, update

DELTAS = replace(EXPECTED, form="delta", start=MODEL)


def changed(form: str) -> tuple[Tensors, Tensors]:
    """A model after a training, and what an update of it holds."""
    rng = np.random.default_rng(3)
    trained = {
        name: np.asarray(
            (base + rng.normal(size=base.shape).astype(base.dtype)) if base.dtype.kind not in "ib" else base
        )
        for name, base in MODEL.items()
    }
    change = {
        name: np.asarray(value - MODEL[name]) if value.dtype.kind not in "ib" else value
        for name, value in trained.items()
    }
    return trained, change if form == "delta" else trained


def test_an_update_of_weights_becomes_the_change_that_a_newer_function_sends() -> None:
    trained, change = changed("delta")
    from_weights = pass_gate(update(tensors=trained, update="weights"), expected=DELTAS)[1]
    from_delta = pass_gate(update(tensors=change, update="delta"), expected=DELTAS)[1]
    assert payload.encode(from_weights) == payload.encode(from_delta)


def test_an_update_of_changes_becomes_weights_where_the_job_asks_for_them() -> None:
    trained, change = changed("delta")
    got = pass_gate(update(tensors=change, update="delta"), expected=replace(EXPECTED, start=MODEL))[1]
    assert {name: array.dtype for name, array in got.items()} == {name: array.dtype for name, array in trained.items()}
    assert np.abs(got["F32"] - trained["F32"]).max() < 1e-6


def test_a_change_out_of_bounds_is_refused_with_the_setting_that_lifts_the_bound() -> None:
    far = {**MODEL, "F32": np.full((3, 4), 1e4, np.float32)}
    with pytest.raises(Refused, match=r"F32 reaches 10000, at most 1024 is accepted: training.headroom lifts"):
        pass_gate(update(tensors=far, update="delta"), expected=DELTAS)
    lifted = replace(DELTAS, plan=aggregator.plan(MODEL, frozenset(), 10_000, {"F3*": 14}))
    assert pass_gate(update(tensors=far, update="delta"), expected=lifted)[1]["F32"][0, 0] == 1e4


def test_auxiliary_tensors_are_expected_and_never_converted() -> None:
    auxiliary = {"aux.c": np.ones(2, np.float32)}
    plan = aggregator.plan({**MODEL, **auxiliary}, frozenset(), 10_000)
    _, change = changed("delta")
    sent = {**change, "aux.c": np.full(2, 3, np.float32)}
    got = pass_gate(update(tensors=sent, update="delta"), expected=replace(EXPECTED, plan=plan, start=MODEL))[1]
    assert got["aux.c"].tolist() == [3.0, 3.0]
    assert code_of(update(tensors=change, update="delta"), expected=replace(DELTAS, plan=plan)) == "layout"
