"""Which events may reach the broker at the same time."""

import asyncio
from collections import deque

import pytest

import broker
from broker import topics
from broker.messages.progress import ClientTraining, Event, JobFailed, Progress
from server.announcer import AT_ONCE, Announcement, open_announcer, take_batch


def about(client: str) -> Event:
    return ClientTraining(round=1, client=client, platform="local", activation="a", attempt=1, cold=None)


SOON_S = 60.0

END = JobFailed(reason="none")


@pytest.mark.parametrize(
    ("events", "batches"),
    [
        ([], []),
        ([("a", about("1")), ("a", about("2"))], [2]),
        ([("a", about("1")), ("a", about("1"))], [1, 1]),
        ([("a", about("1")), ("a", about("2")), ("a", about("1")), ("a", about("3"))], [3, 1]),
        ([("a", about("1")), ("a", about("1")), ("a", about("1")), ("a", about("2"))], [2, 1, 1]),
        ([("a", about("1")), ("a", END), ("a", about("2"))], [1, 1, 1]),
        ([("a", END), ("a", about("1")), ("a", END)], [1, 1, 1]),
        ([("a", END), ("b", END), ("c", about("1"))], [3]),
        ([("a", about("1")), ("b", about("1")), ("b", END)], [2, 1]),
        ([("a", about(str(number))) for number in range(AT_ONCE + 1)], [AT_ONCE, 1]),
    ],
)
def test_events_whose_order_says_something_are_published_one_after_the_other(
    events: list[tuple[str, Event]], batches: list[int]
) -> None:
    queue = deque(Announcement(Progress(job, event, 0.0, str(number))) for number, (job, event) in enumerate(events))
    taken = list[list[str]]()
    while batch := take_batch(queue):
        taken.append([announcement.progress.id for announcement in batch])
    assert [len(batch) for batch in taken] == batches
    order = [int(event) for batch in taken for event in batch]
    assert sorted(order) == [*range(len(events))]
    for job, event in events:
        of_same = [number for number, each in enumerate(events) if each == (job, event)]
        assert [number for number in order if number in of_same] == of_same


def test_much_that_must_wait_is_not_looked_at_over_and_over() -> None:
    queue = deque(Announcement(Progress("a", END, 0.0, str(number))) for number in range(3 * AT_ONCE))
    assert [event.progress.id for event in take_batch(queue)] == ["0"]
    assert [event.progress.id for event in queue] == [str(number) for number in range(1, 3 * AT_ONCE)]


async def test_a_job_waits_for_its_own_events_only(memory_url: str) -> None:
    async with broker.connect(memory_url) as bus, open_announcer(bus) as announcer:
        for number in range(3):
            announcer.announce("a", about(f"client-{number}"), number)
            announcer.announce("b", END, number)
        await announcer.settle("a")
        async with bus.subscribe(topics.job_progress("a")) as events:
            taken = [(await anext(events)).topic for _ in range(3)]
    assert taken == [topics.progress("a", "client", "training")] * 3


@pytest.mark.parametrize("is_waited_for", [False, True])
async def test_events_about_clients_gather_until_another_event_or_somebody_who_waits(
    memory_url: str, monkeypatch: pytest.MonkeyPatch, *, is_waited_for: bool
) -> None:
    monkeypatch.setattr("server.announcer.GATHER_S", 3600.0)
    async with broker.connect(memory_url) as bus, open_announcer(bus) as announcer:
        announcer.announce("a", about("1"), 1)
        await asyncio.sleep(0)
        if is_waited_for:
            await announcer.announce_and_wait("a", about("2"), 2)
        else:
            announcer.announce("a", END, 2)
        async with asyncio.timeout(SOON_S), bus.subscribe(topics.job_progress("a")) as events:
            for _ in range(2):
                await anext(events)
