"""A job as lines: one for each round with what was measured, one for each failure, none for each client."""

import time
from collections.abc import Iterator

import msgspec
import pytest

from broker.messages import job_file
from broker.messages.progress import (
    Event,
    Progress,
)
from fedkeeper.display import lines
from fedkeeper.display.lines import JobLines


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def taken(*events: Event) -> list[str]:
    shown = JobLines()
    return [line for event in events for line in shown.take(Progress("demo", event, 1.0, "x"))]


def of(events: tuple[Event, ...], what: str, **change: object) -> Event:
    return msgspec.structs.replace(next(event for event in events if event.what == what), **change)


ROUND_1 = "round 1 of 3: accuracy 0.8125, loss 0.7500, 2 clients (1 missing), 1.75 s"


def test_a_round_is_one_line_with_what_was_measured(events: tuple[Event, ...]) -> None:
    names = ("job.accepted", "round.opened", "client.training", "update.counted", "round.quorum", "round.completed")
    shown = taken(*(of(events, name) for name in (*names, "model.evaluated")))
    assert shown == ["accepted (demo)", ROUND_1]


def test_whatever_goes_wrong_is_a_line(events: tuple[Event, ...]) -> None:
    wrong = {"client.failed", "client.refused", "client.restored", "update.refused", "round.failed", "job.paused"}
    quiet = {"round.opened", "round.quorum", "client.training", "update.counted", "model.evaluated", "round.completed"}
    for event in events:
        assert len(taken(event)) == (event.what not in quiet), event.what
    assert wrong.isdisjoint(quiet)


def test_a_round_that_nobody_judges_has_its_line_at_once(events: tuple[Event, ...]) -> None:
    unjudged = of(events, "job.accepted", job=job_file.from_dict({"data": {"dataset": "own"}}))
    shown = taken(unjudged, of(events, "round.completed", missing=()))
    assert shown[1:] == ["round 1 of 20: train loss 0.5000, 2 clients, 1.75 s"]


def test_rounds_between_two_evaluations_have_their_line_when_the_next_round_ends(events: tuple[Event, ...]) -> None:
    rounds = [of(events, "round.completed", round=number, missing=()) for number in (1, 2)]
    evaluated = of(events, "model.evaluated", round=2)
    shown = taken(of(events, "job.accepted"), *rounds, evaluated, of(events, "job.completed"))
    assert [line.split(":")[0] for line in shown[1:]] == ["round 1 of 3", "round 2 of 3", "completed"]
    assert "accuracy" not in shown[1]
    assert "accuracy 0.8125" in shown[2]


def test_the_last_round_is_told_even_if_its_evaluation_is_missing(events: tuple[Event, ...]) -> None:
    shown = taken(of(events, "round.completed"), of(events, "job.failed"))
    assert shown == ["round 1: train loss 0.5000, 2 clients (1 missing), 1.75 s", "failed: no clients"]


def test_what_clients_judge_is_in_the_line_where_the_server_has_no_test_set(events: tuple[Event, ...]) -> None:
    spec = {"data": {"dataset": "own"}, "evaluation": {"holdout": 0.2}}
    judged = of(events, "model.evaluated", by="clients")
    shown = taken(of(events, "job.accepted", job=job_file.from_dict(spec)), of(events, "round.completed"), judged)
    assert shown[1].startswith("round 1 of 20: accuracy 0.8125, loss 0.7500, ")


def test_lines_have_the_time_of_day(events: tuple[Event, ...]) -> None:
    assert lines.with_time("round 1", 1_700_000_000.0) == "22:13:20  round 1"
    assert lines.with_time("round 1", 1_700_000_000.0, "demo") == "22:13:20  demo  round 1"
    text = lines.full_line(Progress("demo", of(events, "round.quorum"), 1_700_000_000.0, "x"))
    assert text == "22:13:20  demo  round.quorum      round 1: quorum of 2 reached, 5 s left for the others"
