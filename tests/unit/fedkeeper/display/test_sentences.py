"""Every progress event has a sentence."""

from typing import get_args

import msgspec
import pytest

from broker.messages.progress import Event
from fedkeeper.display import sentences

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
    "round.failed": "round 2 failed: 1 of 2 needed updates; it is tried again",
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
    assert {event.what: sentences.sentence(event) for event in events} == SENTENCES


def test_no_event_is_shown_as_a_python_object(events: tuple[Event, ...]) -> None:
    for event in events:
        assert type(event).__name__ not in sentences.sentence(event)


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
    assert sentences.sentence(event) == expected


def event_of(events: tuple[Event, ...], what: str) -> Event:
    return next(event for event in events if event.what == what)
