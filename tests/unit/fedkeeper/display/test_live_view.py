"""The live view at each stage, and on each screen."""

import io
import re

import msgspec
import pytest

from broker.messages.progress import (
    Event,
    JobFailed,
    JobPaused,
    JobWaiting,
    ModelEvaluated,
    Progress,
    RoundCompleted,
    RoundOpened,
    UpdateCounted,
    UpdateRefused,
)
from fedkeeper.display import sentences
from fedkeeper.display.live_view import WARNINGS_SHOWN, JobView
from fedkeeper.display.screen import SafeConsole


def event_of(events: tuple[Event, ...], what: str) -> Event:
    return next(event for event in events if event.what == what)


def lines_of(view: JobView, width: int = 120, height: int = 40) -> list[str]:
    """Return what stands on a screen of that size."""
    file = io.StringIO()
    SafeConsole(file=file, width=width, height=height, force_terminal=False).print(view)
    return file.getvalue().splitlines()


def text_of(view: JobView) -> str:
    """Return the view as text, with one space for each run of spaces and bar characters."""
    return re.sub(r"[ ━╸╺]+", " ", "\n".join(lines_of(view)))


def view_after(*events: Event) -> JobView:
    view = JobView("demo")
    for event in events:
        view.update(Progress("demo", event, 1.0, "x"))
    return view


def test_the_view_can_be_shown_after_every_event(events: tuple[Event, ...]) -> None:
    view = JobView("demo")
    assert "demo submitted" in text_of(view)
    assert "rounds 0/?" in text_of(view)
    for event in events:
        view.update(Progress("demo", event, 1.0, "x"))
        assert text_of(view).startswith("demo ")


def test_the_header_shows_an_accepted_job_s_settings(events: tuple[Event, ...]) -> None:
    text = text_of(view_after(event_of(events, "job.accepted"), event_of(events, "job.started")))
    assert "demo running" in text
    assert "nn on digits (shards), adam, 10 of 10 clients per round, 397,510 parameters" in text
    assert "rounds 0/3" in text
    assert "aggregate" not in text


def test_an_open_round_shows_how_many_clients_answered_and_train(events: tuple[Event, ...]) -> None:
    opened, training = event_of(events, "round.opened"), event_of(events, "client.training")
    other = msgspec.structs.replace(training, client="c-1")
    assert "round 1 0/3 answered, 2 training" in text_of(view_after(opened, training, other))
    assert "round 1 1/3 answered, 1 training" in text_of(
        view_after(opened, training, other, event_of(events, "update.counted"))
    )


def test_clients_that_judge_are_counted_where_nobody_trains(events: tuple[Event, ...]) -> None:
    opened, counted = event_of(events, "round.opened"), event_of(events, "update.counted")
    judged = msgspec.structs.replace(counted, purpose="evaluate", counted=2)
    beside = view_after(msgspec.structs.replace(opened, evaluators=("c-7", "c-8")), counted, judged)
    assert (beside.invited, beside.counted) == (3, 1)
    alone = view_after(msgspec.structs.replace(opened, cohort=(), evaluators=("c-7", "c-8")), judged)
    assert (alone.invited, alone.counted) == (2, 2)


def test_the_counts_start_at_zero_in_the_next_round(events: tuple[Event, ...]) -> None:
    first = [
        event_of(events, what) for what in ("round.opened", "client.training", "update.counted", "round.completed")
    ]
    second = RoundOpened(round=2, cohort=("c-0", "c-1"), quorum=1, deadline_s=1.0)
    view = view_after(*first, msgspec.structs.replace(first[1], client="c-1"), second)
    assert "round 2 0/2 answered, 0 training" in text_of(view)
    assert "rounds 1/?" in text_of(view)


def test_a_round_shows_its_times_and_later_its_evaluation(events: tuple[Event, ...]) -> None:
    view = view_after(event_of(events, "round.completed"))
    assert "1 … 0.5000 2 (-1) 1.75 s 10 ms 200 ms 1.50 s 40 ms …" in text_of(view)
    view.update(Progress("demo", event_of(events, "model.evaluated"), 1.0, "x"))
    assert "1 0.8125 0.7500 0.5000 2 (-1) 1.75 s 10 ms 200 ms 1.50 s 40 ms 300 ms" in text_of(view)


def test_a_waiting_job_shows_its_reason_until_it_runs(events: tuple[Event, ...]) -> None:
    waiting = JobWaiting(reason="3 of 10 clients", data="digits", have=3, need=10, until_s=1.0)
    assert "demo waiting: 3 of 10 clients" in text_of(view_after(waiting))
    assert "demo running" in text_of(view_after(waiting, event_of(events, "round.opened")))


@pytest.mark.parametrize("what", ["job.completed", "job.cancelled"])
def test_the_end_is_the_last_state(events: tuple[Event, ...], what: str) -> None:
    assert f"demo {sentences.sentence(event_of(events, what))}" in text_of(view_after(event_of(events, what)))


def test_a_failure_s_reason_is_not_said_twice(events: tuple[Event, ...]) -> None:
    """Who follows the job says it below the view."""
    last = msgspec.structs.replace(event_of(events, "round.failed"), policy="stop")
    text = text_of(view_after(last, JobFailed(reason="1 of 2 needed updates; round 2 failed, 1 in a row")))
    assert text.startswith("demo failed\n")
    assert "needed updates" not in text


def test_failures_are_shown_with_their_brackets(events: tuple[Event, ...]) -> None:
    text = text_of(
        view_after(*(event_of(events, what) for what in ("client.failed", "update.refused", "round.failed")))
    )
    for what in ("client.failed", "update.refused", "round.failed"):
        assert f"! {sentences.sentence(event_of(events, what))}" in text


SIZES = [(80, 24), (100, 30), (140, 40), (200, 50), (40, 10), (20, 5)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_view_fits_every_screen_and_has_a_line_for_each_round(
    events: tuple[Event, ...], width: int, height: int
) -> None:
    completed, evaluated = event_of(events, "round.completed"), event_of(events, "model.evaluated")
    reason = "BadData: file:///srv/fedkeeper/shard-7.npz: " + "y has shape (89,); whole numbers are wanted " * 9
    failed = msgspec.structs.replace(event_of(events, "client.failed"), reason=reason)
    view = view_after(event_of(events, "job.accepted"), event_of(events, "job.started"))
    for number in range(1, 101):
        for event in (completed, evaluated, failed):
            change = {"round": number}
            view.update(Progress("demo", msgspec.structs.replace(event, **change), 1.0, "x"))
        shown = lines_of(view, width, height)
        assert len(shown) < height
        assert max(map(len, shown)) <= width
    if width >= 80:
        rows = [line.split() for line in shown if re.match(r" *\d+ ", line)]
        assert [row[:3] for row in rows[-2:]] == [["99", "0.8125", "0.7500"], ["100", "0.8125", "0.7500"]]
        assert all("2 (-1)" in line and "1.75 s" in line for line in shown if re.match(r" *\d+ ", line))
        assert len(rows) >= height - 14
        assert sum(line.startswith("! c-1, attempt 2: BadData") for line in shown) == WARNINGS_SHOWN


def test_more_columns_show_more(events: tuple[Event, ...]) -> None:
    view = view_after(*(event_of(events, what) for what in ("job.accepted", "round.completed", "model.evaluated")))
    heads = {
        width: next(line for line in lines_of(view, width) if "round " in line and "loss" in line)
        for width in (80, 100, 140, 200)
    }
    assert heads[80].split() == ["round", "accuracy", "loss", "train", "loss", "clients", "time"]
    assert heads[100].split()[7:] == ["invoke", "start", "train", "aggregate", "evaluate"]
    assert heads[140].split()[12:] == ["samples", "received", "sent"]
    assert heads[200].split()[15:] == ["model"]


def test_a_state_that_is_a_long_sentence_is_shown(events: tuple[Event, ...]) -> None:
    reason = (
        "0 of 5 clients that hold 'own' are registered; " + "register each with `fedkeeper clients add` " * 4 + "END"
    )
    waiting = JobWaiting(reason=reason, data="own", have=0, need=5, until_s=1.0)
    assert "END" in "\n".join(lines_of(view_after(event_of(events, "job.accepted"), waiting), 80, 24))


def test_counted_and_evaluated_follow_the_events(events: tuple[Event, ...]) -> None:
    view = view_after(*events)
    assert (view.round, view.counted, view.invited, view.done) == (1, 1, 3, 1)
    assert isinstance(view.evaluations[1], ModelEvaluated)
    assert isinstance(event_of(events, "update.counted"), UpdateCounted)


HOSTILE = "\x1b[2J\x9b [/b] [red]x[/red]"
SHOWN = "\\u001b[2J\\u009b [/b] [red]x[/red]"


def test_foreign_text_in_a_live_view_changes_nothing_on_the_terminal(events: tuple[Event, ...]) -> None:
    completed = event_of(events, "round.completed")
    assert isinstance(completed, RoundCompleted)
    view = view_after(
        *events,
        UpdateRefused(topic="fl.updates.x", code="foreign", reason=HOSTILE),
        msgspec.structs.replace(completed, metrics={"[/b]\x1b": 1.0}),
        JobPaused(reason=HOSTILE, until_s=1.0),
    )
    text = text_of(view)
    assert text.count(SHOWN) == 2
    assert "\x1b" not in text
