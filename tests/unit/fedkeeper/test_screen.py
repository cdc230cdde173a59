"""How a job is shown: a sentence for every event, and the live view at each stage."""

import io
import re
from typing import get_args

import msgspec
import pytest

from broker.messages.progress import (
    Event,
    JobFailed,
    JobWaiting,
    ModelEvaluated,
    Progress,
    RoundCompleted,
    RoundOpened,
    UpdateCounted,
    UpdateRefused,
)
from broker.messages.register import ClientRecord
from fedkeeper import rounds_table, screen
from fedkeeper.commands import clients
from fedkeeper.screen import ROUNDS_SHOWN, WARNINGS_SHOWN, JobView, SafeConsole

SENTENCES = {
    "job.accepted": "accepted (demo)",
    "job.rejected": "rejected: cohort.clients = 0: expected a whole number >= 1",
    "job.waiting": "waiting: 1 of 10 clients are registered",
    "job.started": "started: 397,510 parameters, initial model abababababab",
    "job.completed": "completed: 3 rounds are done, test accuracy 0.9375; trained on aarch64 NEON",
    "job.failed": "failed: no clients",
    "job.paused": "paused: the broker has no room for fl.models.job-1.ab: insufficient resources",
    "job.cancelled": "cancelled after 2 rounds",
    "round.opened": "round 1: 3 clients invited (resumed)",
    "round.quorum": "round 1: quorum of 2 reached, 5 s left for the others",
    "round.completed": "round 1: 2 updates in 1.75 s, model abababababab",
    "round.failed": "round 2 failed: 1 of 2 needed updates; retry",
    "client.training": "c-0 trains on local as act-7 (cold)",
    "client.failed": "c-1, attempt 2: no memory [1 GB]; will be invoked again",
    "client.refused": "c-1: openfaas did not start it: 429 from the watchdog; asked again",
    "client.restored": "c-1 on gcf: no topic; created again",
    "update.counted": "c-0 counted, 1 of 3",
    "update.refused": "update refused (finite): hidden.weight holds NaN or infinity [fl.updates.demo.1.c-2.1]",
    "model.evaluated": "round 1: accuracy 0.8125, loss 0.7500",
}


def test_there_is_a_sentence_for_every_event(events: tuple[Event, ...]) -> None:
    assert set(SENTENCES) == {kind.what for kind in get_args(Event)}
    assert {event.what: screen.sentence(event) for event in events} == SENTENCES


def test_no_event_is_shown_as_a_python_object(events: tuple[Event, ...]) -> None:
    for event in events:
        assert type(event).__name__ not in screen.sentence(event)


@pytest.mark.parametrize(
    ("what", "change", "expected"),
    [
        ("job.completed", {"accuracy": None, "processors": {}}, "completed: 3 rounds are done"),
        ("job.completed", {"accuracy": None}, "completed: 3 rounds are done; trained on aarch64 NEON"),
        ("round.opened", {"resumed": False}, "round 1: 3 clients invited"),
        ("model.evaluated", {"loss": None}, "round 1: accuracy 0.8125, loss not finite"),
        (
            "model.evaluated",
            {"by": "clients", "reason": "the sums do not fit"},
            "round 1, not judged by clients: the sums do not fit",
        ),
        ("round.opened", {"evaluators": ("c-7",)}, "round 1: 3 clients invited, 1 clients asked to judge (resumed)"),
        ("round.opened", {"cohort": (), "evaluators": ("c-7", "c-8")}, "round 1: 2 clients asked to judge (resumed)"),
        ("update.counted", {"purpose": "evaluate"}, "c-0 has judged, 1 of 3"),
        ("client.training", {"cold": None}, "c-0 trains on local as act-7"),
        ("client.failed", {"final": True}, "c-1, attempt 2: no memory [1 GB]; given up"),
        ("client.failed", {"final": True, "attempt": 0}, "c-1: no memory [1 GB]; given up"),
    ],
)
def test_a_sentence_leaves_out_unknown_facts(
    events: tuple[Event, ...], what: str, change: dict[str, object], expected: str
) -> None:
    event = msgspec.structs.replace(event_of(events, what), **change)
    assert screen.sentence(event) == expected


def test_a_line_names_the_job_and_the_event(events: tuple[Event, ...]) -> None:
    text = screen.log_line(Progress("demo", event_of(events, "round.quorum"), 1.0, "x"))
    assert text == "demo  round.quorum      round 1: quorum of 2 reached, 5 s left for the others"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 ms"), (0.0124, "12 ms"), (0.9994, "999 ms"), (1.0, "1.00 s"), (75.256, "75.26 s")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert rounds_table.format_duration(seconds) == text


def event_of(events: tuple[Event, ...], what: str) -> Event:
    return next(event for event in events if event.what == what)


def text_of(view: JobView) -> str:
    """Return the view as text, with one space for each run of spaces and bar characters."""
    file = io.StringIO()
    SafeConsole(file=file, width=120, force_terminal=False).print(view.render())
    return re.sub(r"[ ━╸╺]+", " ", file.getvalue())


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
    assert "1 … 0.5000 2 (-1) 10 ms 200 ms 1.50 s 40 ms …" in text_of(view)
    view.update(Progress("demo", event_of(events, "model.evaluated"), 1.0, "x"))
    assert "1 0.8125 0.7500 0.5000 2 (-1) 10 ms 200 ms 1.50 s 40 ms 300 ms" in text_of(view)


def test_a_waiting_job_shows_its_reason_until_it_runs(events: tuple[Event, ...]) -> None:
    waiting = JobWaiting(reason="3 of 10 clients", data="digits", have=3, need=10, until_s=1.0)
    assert "demo waiting: 3 of 10 clients" in text_of(view_after(waiting))
    assert "demo running" in text_of(view_after(waiting, event_of(events, "round.opened")))


@pytest.mark.parametrize("what", ["job.completed", "job.failed", "job.cancelled", "job.rejected"])
def test_the_end_is_the_last_state(events: tuple[Event, ...], what: str) -> None:
    assert f"demo {SENTENCES[what]}" in text_of(view_after(event_of(events, what)))


def test_failures_are_shown_with_their_brackets(events: tuple[Event, ...]) -> None:
    text = text_of(
        view_after(*(event_of(events, what) for what in ("client.failed", "update.refused", "round.failed")))
    )
    for what in ("client.failed", "update.refused", "round.failed"):
        assert f"! {SENTENCES[what]}" in text


def test_a_long_job_fits_the_screen(events: tuple[Event, ...]) -> None:
    completed, failed = event_of(events, "round.completed"), event_of(events, "round.failed")
    assert isinstance(completed, RoundCompleted)
    many = [msgspec.structs.replace(completed, round=round_) for round_ in range(1, 101)]
    text = text_of(view_after(*many, *[failed] * 50))
    assert len(text.splitlines()) < ROUNDS_SHOWN + WARNINGS_SHOWN + 6
    assert "\n 100 … 0.5000" in text
    assert "\n 92 " not in text
    assert text.count("! round 2 failed") == WARNINGS_SHOWN


def test_counted_and_evaluated_follow_the_events(events: tuple[Event, ...]) -> None:
    view = view_after(*events)
    assert (view.round, view.counted, view.invited, view.done) == (1, 1, 3, 1)
    assert isinstance(view.evaluations[1], ModelEvaluated)
    assert isinstance(event_of(events, "update.counted"), UpdateCounted)


def test_progress_goes_to_standard_error_and_lists_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    screen.console().print("[bold]shown[/]")
    screen.print_table(("x",), [])
    out, err = capsys.readouterr()
    assert (out.split(), err) == (["x"], "shown\n")


HOSTILE = "\x1b[2J\x9b [/b] [red]x[/red]"
SHOWN = "\\u001b[2J\\u009b [/b] [red]x[/red]"


def test_foreign_text_in_a_list_changes_nothing_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    record = ClientRecord(id="c-1", platform="edge", labels={"[/b]": HOSTILE}, data_loc="s3://key:hunter2@bucket/x?s=1")
    screen.print_table(("client",) * 10, [clients.client_row(record, None, 0.0)])
    out = capsys.readouterr().out
    assert f"[/b]={SHOWN}" in out
    assert "s3://bucket/x " in out
    assert "hunter2" not in out
    assert "\x1b" not in out


def test_foreign_text_in_a_live_view_changes_nothing_on_the_terminal(events: tuple[Event, ...]) -> None:
    completed = event_of(events, "round.completed")
    assert isinstance(completed, RoundCompleted)
    view = view_after(
        *events,
        UpdateRefused(topic="fl.updates.x", code="foreign", reason=HOSTILE),
        msgspec.structs.replace(completed, metrics={"[/b]\x1b": 1.0}),
        JobFailed(reason=HOSTILE),
    )
    text = text_of(view)
    assert text.count(SHOWN) == 2
    assert "\x1b" not in text


def test_foreign_text_in_a_line_changes_nothing_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen.echo(HOSTILE)
    screen.console().print(HOSTILE, markup=False)
    assert [text.strip() for text in capsys.readouterr()] == [SHOWN, SHOWN]


def test_a_list_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    place = "file:///" + "very/" * 60 + "far"
    screen.print_table(("client", "data"), [("c-1", place), ("c-2", "near")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["client", "data"], ["c-1", place], ["c-2", "near"]]
