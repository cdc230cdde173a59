"""Which events may reach the broker at the same time."""

from collections import deque

import pytest

from broker.messages.progress import ClientTraining, Event, JobFailed, Progress
from server.announcer import AT_ONCE, Announcement, take_batch


def about(client: str) -> Event:
    return ClientTraining(round=1, client=client, platform="local", activation="a", attempt=1, cold=None)


END = JobFailed(reason="none")


@pytest.mark.parametrize(
    ("events", "batches"),
    [
        ([], []),
        ([("a", about("1")), ("a", about("2"))], [2]),
        ([("a", about("1")), ("a", about("1"))], [1, 1]),
        ([("a", about("1")), ("a", about("2")), ("a", about("1")), ("a", about("3"))], [2, 2]),
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
    assert [event for batch in taken for event in batch] == [str(number) for number in range(len(events))]
