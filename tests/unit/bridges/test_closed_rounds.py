"""Which rounds are over, according to progress events."""

import asyncio

import pytest

import broker
from bridges.closed_rounds import ClosedRounds
from broker.messages import progress
from broker.messages.progress import (
    FINAL_EVENTS,
    Event,
    JobAccepted,
    JobStarted,
    JobWaiting,
    Progress,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
)


class Observable(ClosedRounds):
    """Closed rounds whose test can wait for each event."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: asyncio.Queue[Progress] = asyncio.Queue()

    def note(self, event: Progress) -> None:
        super().note(event)
        self.noted.put_nowait(event)


def of_job(event: Event, job: str = "demo") -> Progress:
    return Progress(job, event, 1.0, "x")


def opened(round_: int) -> RoundOpened:
    return RoundOpened(round=round_, cohort=("c-0",), quorum=1, deadline_s=1.0)


def failed(round_: int) -> RoundFailed:
    return RoundFailed(round=round_, reason="", counted=(), policy="retry")


def over(closed_rounds: ClosedRounds, job: str = "demo") -> list[int]:
    return [round_ for round_ in range(1, 10) if closed_rounds.contains(job, round_)]


def test_no_round_is_over_before_the_first_event() -> None:
    assert over(ClosedRounds()) == []


def test_all_rounds_before_an_open_one_are_over() -> None:
    closed_rounds = ClosedRounds()
    closed_rounds.note(of_job(opened(3)))
    assert over(closed_rounds) == [1, 2]


def test_the_first_round_is_not_over_when_it_opens() -> None:
    closed_rounds = ClosedRounds()
    closed_rounds.note(of_job(opened(1)))
    assert over(closed_rounds) == []


def test_a_completed_or_failed_round_is_over(events: tuple[Event, ...]) -> None:
    completed = next(event for event in events if isinstance(event, RoundCompleted))
    for event in (completed, failed(1)):
        closed_rounds = ClosedRounds()
        closed_rounds.note(of_job(event))
        assert over(closed_rounds) == [1]


def test_a_round_that_opens_again_takes_back_what_was_over() -> None:
    """A broker that lost its last second: the server, which starts over from the store, trains rounds again."""
    closed_rounds = ClosedRounds()
    for event in (failed(5), opened(2)):
        closed_rounds.note(of_job(event))
    assert over(closed_rounds) == [1]


def test_an_ended_job_has_no_round_left(events: tuple[Event, ...]) -> None:
    for end in (event for event in events if isinstance(event, FINAL_EVENTS)):
        closed_rounds = ClosedRounds()
        closed_rounds.note(of_job(end))
        closed_rounds.note(of_job(failed(1)))
        assert closed_rounds.contains("demo", 10**9), "the end may be read before the last round's"


def test_a_job_that_goes_on_takes_its_end_back(events: tuple[Event, ...]) -> None:
    ends = [event for event in events if isinstance(event, FINAL_EVENTS)]
    begins = [event for event in events if isinstance(event, JobAccepted | JobStarted)]
    assert len(begins) == 2
    for end in ends:
        for begin, closed in (*((begin, []) for begin in begins), (opened(3), [1, 2])):
            closed_rounds = ClosedRounds()
            for event in (failed(7), end, begin):
                closed_rounds.note(of_job(event))
            assert over(closed_rounds) == closed


def test_other_events_and_other_jobs_change_nothing(events: tuple[Event, ...]) -> None:
    closed_rounds = ClosedRounds()
    for event in events:
        if not isinstance(event, (JobAccepted, JobStarted, RoundOpened, RoundCompleted, RoundFailed, *FINAL_EVENTS)):
            closed_rounds.note(of_job(event))
    closed_rounds.note(of_job(failed(7), "other"))
    assert over(closed_rounds) == []
    assert over(closed_rounds, "other") == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("garbage", [b"garbage", b"\xff", b"[" * 50_000])
async def test_it_follows_one_subject_of_every_job_and_skips_unreadable_events(garbage: bytes) -> None:
    waiting = JobWaiting(reason="", data="", have=0, need=1, until_s=1.0)
    async with broker.connect("memory://closed_rounds") as bus, asyncio.timeout(5), asyncio.TaskGroup() as group:
        closed_rounds = Observable()
        following = group.create_task(closed_rounds.follow(bus, "round"), name="follow")
        await asyncio.sleep(0)  # its first step: it subscribes
        await bus.publish(progress.topic_of("demo", opened(9)), garbage)
        for job, event in (("demo", waiting), ("demo", failed(2)), ("other", opened(4))):
            await bus.publish(progress.topic_of(job, event), progress.encode(of_job(event, job)))
        assert [(await closed_rounds.noted.get()).job for _ in range(2)] == ["demo", "other"]
        following.cancel()
    assert over(closed_rounds) == [1, 2]
    assert over(closed_rounds, "other") == [1, 2, 3]
