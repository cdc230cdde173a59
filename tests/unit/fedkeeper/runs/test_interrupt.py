"""Who interrupts a run lets its open round end, or its results be saved; a second interrupt does not wait."""

import signal

import pytest

from broker.messages.progress import Event, JobCompleted, Progress, RoundOpened
from broker.messages.round import BlobRef
from fedkeeper.runs.interrupt import Interruption

OPENED = RoundOpened(round=3, cohort=("a",), quorum=1, deadline_s=1.0)
ENDED = JobCompleted(reason="3 rounds are done", rounds=3, accuracy=None, model=BlobRef("fl.models.demo.ab", "ab", 1))


def after(*events: Event) -> Interruption:
    until = Interruption()
    for event in events:
        until.update(Progress("demo", event, 1.0, "id"))
    return until


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ((OPENED,), "ending after round 3; Ctrl-C again ends at once"),
        ((OPENED, ENDED), "the job has ended; saving its results; Ctrl-C again ends at once"),
    ],
)
def test_only_the_first_ctrl_c_is_waited_for(events: tuple[Event, ...], said: str) -> None:
    until = after(*events)
    assert until.receive(signal.SIGINT)
    assert until.answer == said
    assert not until.is_told
    assert not until.receive(signal.SIGINT)
    assert until.is_told


@pytest.mark.parametrize("events", [(), (OPENED,), (OPENED, ENDED)])
def test_a_closed_terminal_waits_for_nothing(events: tuple[Event, ...]) -> None:
    assert not after(*events).receive(signal.SIGHUP)


def test_a_run_that_has_not_begun_ends_at_once() -> None:
    assert not after().receive(signal.SIGINT)


def test_a_job_that_has_ended_was_not_interrupted() -> None:
    assert not after(OPENED, ENDED).is_over
