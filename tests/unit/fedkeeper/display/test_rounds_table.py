"""The table of rounds: its columns follow from what the job measures, and it fits the screen."""

import io
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from rich.console import Console

from broker.messages import job_file
from broker.messages.job import Job
from broker.messages.progress import Event, ModelEvaluated, RoundCompleted
from broker.messages.reports import Spread
from fedkeeper.display.rounds_table import RoundsTable


@pytest.fixture
def completed(events: tuple[Event, ...]) -> RoundCompleted:
    return next(event for event in events if isinstance(event, RoundCompleted))


def evaluated(round_: int, by: Any = "server", **metrics: float) -> ModelEvaluated:
    return ModelEvaluated(
        round=round_,
        accuracy=metrics.get("accuracy"),
        loss=metrics.get("loss"),
        samples=100,
        evaluation_s=0.25,
        background=False,
        by=by,
        metrics=metrics,
        clients=0 if by == "server" else 8,
        spread={name: Spread(mean=value, median=value, worst_decile=value / 2) for name, value in metrics.items()}
        if by == "clients"
        else {},
    )


def table(job: Job | None, rounds: Iterable[RoundCompleted], *evaluations: ModelEvaluated) -> RoundsTable:
    by = {who: {each.round: each for each in evaluations if each.by == who} for who in ("server", "clients")}
    return RoundsTable(list(rounds), job, by["server"], by["clients"])


def lines(shown: RoundsTable, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=False).print(shown)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def heads(shown: RoundsTable) -> list[str]:
    """Return the columns that are told first and those that every screen has."""
    return [column.name for column in shown.columns() if column.rank < 8]


OWN = {"data": {"dataset": "own"}}
DIGITS = job_file.from_dict({})
UNJUDGED = job_file.from_dict(OWN)
HELD_OUT = job_file.from_dict({**OWN, "evaluation": {"holdout": 0.2, "metrics": ["auroc"]}})


def test_a_job_that_nobody_judges_shows_its_training_loss(completed: RoundCompleted) -> None:
    shown = lines(table(UNJUDGED, [completed]), 80)
    assert [line.split() for line in shown] == [
        ["round", "train", "loss", "clients", "time", "invoke", "start", "train", "aggregate", "samples"],
        ["1", "0.5000", "2", "(-1)", "1.75", "s", "10", "ms", "200", "ms", "1.50", "s", "40", "ms", "1,200"],
    ]


def test_a_wide_screen_has_the_times_of_the_phases(completed: RoundCompleted) -> None:
    assert " ".join(lines(table(DIGITS, [completed]), 100)[0].split()) == (
        "round accuracy loss train loss clients time invoke start train aggregate evaluate"
    )


def test_eighty_columns_hold_everything_that_is_measured(completed: RoundCompleted) -> None:
    spec = {"evaluation": {"holdout": 0.2, "metrics": ["auroc", "accuracy", "f1"]}}
    rounds = [msgspec.structs.replace(completed, round=1_000_000)]
    judged = [evaluated(1_000_000, by, accuracy=0.5, auroc=0.75, f1=0.25, loss=9999.0) for by in ("server", "clients")]
    shown = lines(table(job_file.from_dict(spec), rounds, *judged), 80)
    assert len(shown) == 2
    assert "…" not in "".join(shown)
    assert " ".join(shown[1].split()) == "1000000 0.7500 0.5000 9999.0000 0.7500 / 0.3750 0.5000 2 (-1) 1.75 s"


def test_clients_that_judge_fill_the_columns_where_the_server_has_no_test_set(completed: RoundCompleted) -> None:
    second = msgspec.structs.replace(completed, round=2)
    shown = lines(table(HELD_OUT, [completed, second], evaluated(1, "clients", auroc=0.75, loss=0.5)), 80)
    assert " ".join(shown[0].split()) == "round auroc loss mean / worst 10 % train loss clients time"
    assert " ".join(shown[1].split()) == "1 0.7500 0.5000 0.7500 / 0.3750 0.5000 2 (-1) 1.75 s"
    assert " ".join(shown[2].split()) == "2 … … … 0.5000 2 (-1) 1.75 s"


def test_a_round_that_was_left_out_has_no_dots(completed: RoundCompleted) -> None:
    rounds = [msgspec.structs.replace(completed, round=round_) for round_ in (1, 2, 3)]
    every_second = job_file.from_dict({"evaluation": {"every": 2}})
    shown = lines(table(every_second, rounds, evaluated(2, accuracy=0.5, loss=0.25)), 80)
    assert [line.count("…") for line in shown] == [0, 0, 0, 2]


def test_a_loss_that_is_not_finite_is_named(completed: RoundCompleted) -> None:
    assert "not finite" in lines(table(DIGITS, [completed], evaluated(1, accuracy=0.5)), 80)[1]


def test_a_learner_s_metrics_become_columns_when_they_come(completed: RoundCompleted) -> None:
    spec = job_file.from_dict({**OWN, "learner": {"type": "mine:L"}, "evaluation": {"data": "/test.npz"}})
    assert heads(table(spec, [completed]))[:2] == ["round", "loss"]
    judged = table(spec, [completed], evaluated(1, mae=2.0, r2=0.5, bias=0.1))
    assert heads(judged)[:4] == ["round", "mae", "r2", "loss"]


def test_a_training_without_a_loss_shows_what_it_tells(completed: RoundCompleted) -> None:
    told = msgspec.structs.replace(completed, metrics={"steps": 6.0, "perplexity": 12.5})
    assert heads(table(UNJUDGED, [told])) == ["round", "train perplexity", "clients", "time"]
    silent = msgspec.structs.replace(completed, metrics={})
    assert heads(table(UNJUDGED, [silent])) == ["round", "clients", "time"]
