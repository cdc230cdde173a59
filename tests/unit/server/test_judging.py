"""What the clients' judgements of a model come to."""

from typing import Any

import msgspec
import numpy as np
import pytest

from broker.messages.job import Job
from broker.messages.job_sections import Evaluation
from server import judging
from server.judging import Judging
from tests.support.gate_updates import header_of

JOB = Job(evaluation=Evaluation(holdout=0.2))


def judge(*clients: tuple[str, int, dict[str, float]], **changes: Any) -> Judging:
    """The answers of clients: id, judged samples, and own values."""
    answers = Judging()
    for client, judged, own in clients:
        sums = {f"eval.{name}.sum": np.array(value * judged) for name, value in own.items() if judged}
        header = header_of(client, judged=judged, evaluation=own, seconds={"judge": 0.5}, **changes)
        answers.add(header, sums)
    return answers


def test_the_spread_is_over_the_clients_own_values() -> None:
    values = {f"c-{i}": (1, float(i)) for i in range(40)}
    values["c-39"] = (61, 39.0)
    spread = judging.spread(values, "max")
    assert spread.mean == pytest.approx((sum(range(39)) + 61 * 39) / 100)
    assert spread.median == 19.5
    assert spread.worst_decile == 1.5, "the mean of 0, 1, 2 and 3"
    assert judging.spread(values, "min").worst_decile == 37.5


def test_the_worst_decile_has_at_least_one_client() -> None:
    assert judging.spread({"a": (1, 0.25), "b": (1, 0.75)}, "max").worst_decile == 0.25
    assert judging.spread({"a": (1, 0.25)}, "min").worst_decile == 0.25


def test_the_event_tells_what_was_measured_and_by_how_many() -> None:
    answers = judge(("c-1", 10, {"loss": 1.0}), ("c-0", 30, {"loss": 2.0}), ("c-2", 0, {}))
    event = answers.event(JOB, 7, {"loss": 1.75}, background=True)
    assert (event.round, event.by, event.clients, event.samples) == (7, "clients", 2, 40)
    assert (event.loss, event.accuracy, event.metrics) == (1.75, None, {"loss": 1.75})
    assert event.spread["loss"].mean == pytest.approx(1.75)
    assert event.left_out == {"loss": 1}
    assert event.evaluation_s == 1.0


def test_a_client_that_lacks_a_metric_of_its_own_is_left_out_and_counted() -> None:
    """Its sums are in the total: a client with one class has no AUROC, and its scores count."""
    answers = judge(("c-0", 10, {"auroc": 0.75}))
    answers.add(header_of("c-1", judged=5), {"eval.auroc.sum": np.array(3.0)})
    event = answers.event(JOB, 1, {"auroc": 0.5}, background=True)
    assert answers.totals.totals() == {"auroc.sum": 10.5}
    assert event.left_out == {"auroc": 1}
    assert (event.spread["auroc"].mean, event.spread["auroc"].median) == (0.75, 0.75)


def test_a_client_whose_sums_are_of_another_layout_is_in_neither_the_total_nor_the_spread() -> None:
    answers = judge(("c-0", 10, {"loss": 1.0}), ("c-1", 10, {"loss": 3.0}))
    answers.add(header_of("c-2", judged=5, evaluation={"loss": 9.0}), {"eval.loss.sum": np.zeros(2)})
    event = answers.event(JOB, 1, {"loss": 2.0}, background=True)
    assert event.left_out == {"loss": 1}
    assert event.spread["loss"].mean == 2.0


def test_a_site_that_shows_only_means_is_in_no_spread() -> None:
    answers = judge(("c-0", 10, {"loss": 1.0}), ("c-1", 10, {"loss": 3.0}), metrics_scope="sum")
    event = answers.event(JOB, 1, {"loss": 2.0}, background=True)
    assert (event.spread, event.left_out, event.metrics) == ({}, {}, {"loss": 2.0})


def test_a_metric_of_unknown_direction_has_a_spread_once_the_job_states_it() -> None:
    answers = judge(("c-0", 10, {"dice": 0.25}), ("c-1", 10, {"dice": 0.75}))
    assert answers.event(JOB, 1, {"dice": 0.5}, background=True).spread == {}
    stated = msgspec.structs.replace(JOB, evaluation=Evaluation(holdout=0.2, directions={"dice": "max"}))
    assert answers.event(stated, 1, {"dice": 0.5}, background=True).spread["dice"].worst_decile == 0.25


def test_a_claimed_value_without_a_sum_is_no_metric() -> None:
    answers = judge(("c-0", 10, {"loss": 1.0}))
    answers.add(header_of("c-1", judged=5, evaluation={"../made up": 1e9}), {})
    event = answers.event(JOB, 1, {"loss": 1.0}, background=True)
    assert (set(event.spread), event.left_out) == ({"loss"}, {"loss": 1})


def test_answers_in_any_order_make_the_same_event() -> None:
    clients = [("c-0", 10, {"loss": 0.1}), ("c-1", 3, {"loss": 0.7}), ("c-2", 7, {"loss": 1e9})]
    events = {
        msgspec.json.encode(judge(*order).event(JOB, 1, {"loss": 1.0}, background=True))
        for order in (clients, clients[::-1])
    }
    assert len(events) == 1
