"""The parts of a round's time, and the means of metrics."""

import numpy as np
import pytest

from broker.messages.reports import Split
from server import timing


def test_a_round_is_cut_where_something_changed_hands() -> None:
    got = timing.split(opened_s=100.0, invited_s=101.0, training_s=103.0, last_s=110.0, committed_s=110.5)
    assert got == Split(invocation_s=1.0, clients_start_s=2.0, training_s=7.0, aggregation_s=0.5, round_s=10.5)


def test_the_split_without_training_events() -> None:
    got = timing.split(opened_s=0.0, invited_s=1.0, training_s=None, last_s=4.0, committed_s=5.0)
    assert (got.clients_start_s, got.training_s) == (0.0, 3.0)


def test_a_client_that_trains_before_the_last_task_is_out_starts_with_it() -> None:
    got = timing.split(opened_s=0.0, invited_s=2.0, training_s=1.0, last_s=4.0, committed_s=5.0)
    assert (got.invocation_s, got.clients_start_s, got.training_s) == (2.0, 0.0, 2.0)


def test_an_update_that_came_before_its_start_was_known_has_no_negative_training() -> None:
    got = timing.split(opened_s=0.0, invited_s=2.0, training_s=3.0, last_s=2.5, committed_s=5.0)
    assert (got.training_s, got.aggregation_s) == (0.0, 2.0)


def test_the_parts_add_up_and_none_is_negative() -> None:
    rng = np.random.default_rng(3)
    for _ in range(500):
        opened, invited, committed = sorted(rng.uniform(0, 100, 3).tolist())
        training, last = rng.uniform(opened, committed, 2).tolist()
        got = timing.split(opened_s=opened, invited_s=invited, training_s=training, last_s=last, committed_s=committed)
        parts = (got.invocation_s, got.clients_start_s, got.training_s, got.aggregation_s)
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(got.round_s, abs=1e-9)
        assert got.round_s == pytest.approx(committed - opened)


def test_metrics_are_weighted_by_samples() -> None:
    got = timing.weighted_means({"a": (1, {"loss": 1.0}), "b": (3, {"loss": 5.0})})
    assert got == {"loss": 4.0}


def test_a_metric_counts_those_who_report_it() -> None:
    got = timing.weighted_means({"a": (10, {"loss": 1.0, "f1": 0.5}), "b": (30, {"loss": 3.0}), "c": (5, {})})
    assert got == {"loss": 2.5, "f1": 0.5}


def test_metrics_are_the_same_to_the_bit_in_any_order() -> None:
    rng = np.random.default_rng(4)
    reports = {f"c{i}": (int(rng.integers(1, 1000)), {"loss": float(rng.normal())}) for i in range(50)}
    want = timing.weighted_means(reports)
    for _ in range(20):
        names = rng.permutation(list(reports)).tolist()
        assert timing.weighted_means({name: reports[name] for name in names}) == want


def test_no_reports_are_no_metrics() -> None:
    assert timing.weighted_means({}) == {}


def test_a_mean_that_is_not_finite_is_left_out() -> None:
    assert timing.weighted_means({"a": (700, {"loss": 1e308, "accuracy": 0.5})}) == {"accuracy": 0.5}
