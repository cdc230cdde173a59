"""The sums over held-out samples: which of them the gate takes, and how they are added."""

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from broker.messages.job_record import Member
from broker.messages.tensors import Tensors
from server import sums
from server.errors import Refused
from server.gate import Expectation
from server.sums import SumTotals
from tests.support import gate_updates
from tests.support.gate_updates import EXPECTED, MODEL, code_of, header_of, update

JUDGED = replace(EXPECTED, takes_sums=True)
GOOD: Tensors = {
    "eval.loss.sum": np.array(1.5),
    "eval.loss.count": np.array(3),
    "eval.auroc.bins": np.ones((4, 2), int),
}


def judged(tensors: Tensors | None = None, **changes: Any) -> bytes:
    """An update with sums."""
    return update(tensors={**MODEL, **(GOOD if tensors is None else tensors)}, **{"judged": 3, **changes})


def evaluator(expected: Expectation = JUDGED) -> Expectation:
    """An expectation by which c-0 only judges."""
    member = Member("c-0", "local", "", "", 600, purpose="evaluate")
    return replace(expected, members={**expected.members, "c-0": member})


def test_sums_pass_the_gate_beside_the_model_s_tensors() -> None:
    checked = gate_updates.check(judged(evaluation={"loss": 0.5}), expected=JUDGED)
    assert checked.tensors.keys() == MODEL.keys()
    assert checked.sums.keys() == GOOD.keys()
    assert checked.header.evaluation == {"loss": 0.5}


def test_an_update_without_sums_passes_too() -> None:
    checked = gate_updates.check(update(), expected=JUDGED)
    assert (checked.sums, checked.header.judged) == ({}, 0)


REFUSED: dict[str, tuple[str, Tensors, dict[str, Any]]] = {
    "NaN": ("finite", {"eval.loss.sum": np.array(np.nan)}, {}),
    "infinity among others": ("finite", {"eval.r2.sums": np.array([1, -np.inf], np.float32)}, {}),
    "a negative count": ("magnitude", {"eval.loss.count": np.array([5, -1])}, {}),
    "a count that could overflow": ("magnitude", {"eval.loss.count": np.array(2**40 + 1)}, {}),
    "a number that could overflow": ("magnitude", {"eval.loss.sum": np.array(-1e100)}, {}),
    "half precision": ("layout", {"eval.loss.sum": np.array(1, np.float16)}, {}),
    "small integers": ("layout", {"eval.loss.count": np.array(1, np.int32)}, {}),
    "truth values": ("layout", {"eval.loss.count": np.array(True)}, {}),
    "a path as its name": ("layout", {"eval.../../etc.passwd": np.array(1)}, {}),
    "no state in its name": ("layout", {"eval.loss": np.array(1)}, {}),
    "a long name": ("layout", {f"eval.loss.{'x' * 65}": np.array(1)}, {}),
    "a deep name": ("layout", {"eval.loss.sum.sum": np.array(1)}, {}),
    "many tensors": ("layout", {f"eval.loss.s{i}": np.array(1) for i in range(257)}, {}),
    "many bytes": ("layout", {"eval.loss.sum": np.zeros((4 << 17) + 1, np.int64)}, {}),
    "many numbers that are no integers": ("layout", {"eval.loss.sum": np.zeros((256 << 7) + 1)}, {}),
    "negative judged samples": ("samples", GOOD, {"judged": -1}),
    "more judged samples than it can have": ("samples", GOOD, {"judged": 601}),
    "sums over no samples": ("samples", GOOD, {"judged": 0}),
    "an own value that is not finite": ("malformed", GOOD, {"evaluation": {"loss": float("nan")}}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_forged_sums_are_refused_with_a_code(what: str) -> None:
    code, tensors, changes = REFUSED[what]
    assert code_of(judged(tensors, **changes), expected=JUDGED) == code
    assert code_of(judged(tensors, **changes), expected=evaluator()) == code


def test_sums_that_nobody_asked_for_are_tensors_too_many() -> None:
    assert code_of(judged()) == "layout"


def test_a_tensor_of_the_model_may_be_named_like_a_sum() -> None:
    rest, found = sums.split({"eval.loss.sum": np.array(1.0), "eval.loss.count": np.array(1)}, {"eval.loss.sum"})
    assert (list(rest), list(found)) == (["eval.loss.sum"], ["eval.loss.count"])


def test_sums_as_large_as_allowed_fit_into_an_update() -> None:
    largest = {"eval.auroc.bins": np.zeros((1000, 100, 5), np.int64)}
    blob = judged(largest)
    assert len(blob) <= JUDGED.max_bytes
    gate_updates.check(blob, expected=JUDGED)


def test_a_client_that_only_judges_sends_no_tensors_of_the_model() -> None:
    blob = update(tensors=GOOD, judged=3, samples=3)
    checked = gate_updates.check(blob, expected=evaluator())
    assert (checked.tensors, checked.sums.keys()) == ({}, GOOD.keys())
    assert code_of(blob, expected=JUDGED) == "layout", "a client that is to train must train"


def test_the_training_of_a_client_that_was_only_to_judge_is_left_out() -> None:
    """As a function of an older version answers."""
    checked = gate_updates.check(update(), expected=evaluator())
    assert (checked.tensors, checked.sums) == ({}, {})


def test_a_client_with_an_empty_hold_out_may_answer_with_nothing() -> None:
    checked = gate_updates.check(update(tensors={}, judged=0, samples=0), expected=evaluator())
    assert (checked.tensors, checked.sums) == ({}, {})


def test_a_client_that_only_judges_proves_its_task_like_the_others() -> None:
    for code, changes in (("token", {"token": ""}), ("base", {"base": "cd" * 32}), ("foreign", {"round": 2})):
        assert code_of(update(tensors=GOOD, judged=3, **changes), expected=evaluator()) == code


def test_totals_are_the_same_in_any_order_and_rounded_once() -> None:
    values = [1e16, 1.0, -1e16, 0.1, 3e-320, 7.5e70, -7.5e70]
    exact = float(sum(map(Fraction, values), Fraction()))
    for order in itertools.permutations(values, len(values)):
        totals = SumTotals()
        for number, value in enumerate(order):
            totals.add(f"c-{number}", {"eval.loss.sum": np.array(value), "eval.loss.count": np.array(2)})
        assert totals.totals() == {"loss.sum": exact, "loss.count": 14}


def test_totals_keep_shapes_and_are_int64_or_float64() -> None:
    totals = SumTotals()
    for client in ("a", "b"):
        totals.add(client, {"eval.f1.tp": np.arange(6).reshape(2, 3), "eval.f1.mass": np.ones((1, 2), np.float32)})
    added = totals.totals()
    assert (added["f1.tp"].dtype.name, added["f1.mass"].dtype.name) == ("int64", "float64")
    np.testing.assert_array_equal(added["f1.tp"], 2 * np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(added["f1.mass"], [[2.0, 2.0]])


def test_the_largest_total_of_counts_does_not_overflow() -> None:
    totals = SumTotals()
    for number in range(1000):
        totals.add(str(number), {"eval.f1.tp": np.array(sums.MAX_COUNT)})
    assert totals.totals() == {"f1.tp": 1000 * 2**40}


def test_of_each_metric_the_layout_of_most_clients_is_added() -> None:
    totals = SumTotals()
    totals.add("a", {"eval.f1.tp": np.array([9]), "eval.loss.sum": np.array(1.0)})
    for client in ("b", "c"):
        totals.add(client, {"eval.f1.tp": np.array([1, 2]), "eval.loss.sum": np.array(1.0)})
    assert totals.clients("f1") == {"b", "c"}
    assert totals.clients("loss") == {"a", "b", "c"}
    assert totals.clients("auroc") == frozenset()
    np.testing.assert_array_equal(totals.totals()["f1.tp"], [2, 4])


def test_a_client_that_lies_about_the_kind_of_its_outputs_spoils_no_total() -> None:
    totals = SumTotals()
    for client, classes in (("a", 10), ("b", 10), ("c", 999)):
        totals.add(client, {"eval.auroc.outputs": np.array([1, classes]), "eval.auroc.bins": np.ones(4, np.int64)})
    assert totals.clients("auroc") == {"a", "b"}
    np.testing.assert_array_equal(totals.totals()["auroc.outputs"], [2, 20])


def test_of_equally_frequent_layouts_the_same_one_is_added_in_any_order() -> None:
    parts: list[tuple[str, Tensors]] = [
        ("a", {"eval.f1.tp": np.array([1, 2])}),
        ("b", {"eval.f1.tp": np.array([3])}),
        ("c", {"eval.f1.tp": np.array([1.0])}),
    ]
    chosen = set()
    for order in itertools.permutations(parts):
        totals = SumTotals()
        for client, tensors in order:
            totals.add(client, tensors)
        chosen.add(totals.clients("f1"))
    assert len(chosen) == 1


def test_own_values_are_of_clients_that_have_judged_something() -> None:
    headers = {
        "c-2": header_of("c-2", judged=4, evaluation={"loss": 0.5}),
        "c-1": header_of("c-1", judged=2, evaluation={"auroc": 0.5}),
        "c-0": header_of("c-0", judged=0, evaluation={"loss": 0.1}),
    }
    assert sums.own_values(headers, "loss") == {"c-2": (4, 0.5)}


def test_a_refused_sum_has_a_reason_with_its_name() -> None:
    with pytest.raises(Refused, match=r"eval.loss.sum holds NaN or infinity"):
        sums.check({"eval.loss.sum": np.array(np.nan)}, header_of(judged=1), 5)
