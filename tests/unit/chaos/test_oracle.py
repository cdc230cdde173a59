"""The oracle of tests/chaos finds what it is there to find, and nothing in a log where all is well."""

from collections import Counter
from typing import Final

import pytest

from broker.messages.job import Job
from broker.messages.progress import (
    ClientTraining,
    Event,
    JobAccepted,
    JobCompleted,
    JobStarted,
    Progress,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
    RoundQuorum,
    UpdateCounted,
    UpdateRefused,
)
from broker.messages.reports import Split
from broker.messages.round import BlobRef
from tests.chaos import oracle
from tests.chaos.oracle import Usage

MODEL: Final = BlobRef("fl.models.job.00", "00", 1)
CLIENTS: Final = ("a", "b")


def opened(round_: int, *, resumed: bool = False) -> RoundOpened:
    return RoundOpened(round=round_, cohort=CLIENTS, quorum=2, deadline_s=1.0, resumed=resumed)


def training(round_: int, client: str, attempt: int = 1) -> ClientTraining:
    return ClientTraining(
        round=round_, client=client, platform="local", activation=f"w-{attempt}", attempt=attempt, cold=False
    )


def counted(round_: int, client: str) -> UpdateCounted:
    return UpdateCounted(round=round_, client=client, attempt=1, samples=1, counted=1, of=2, trained_s=0.0, metrics={})


def completed(round_: int, *clients: str) -> RoundCompleted:
    return RoundCompleted(
        round=round_,
        counted=clients or CLIENTS,
        missing=(),
        samples=2,
        model=MODEL,
        split=Split(**dict.fromkeys(Split.__struct_fields__, 1.0)),
        trained_s=0.0,
        metrics={},
        bytes_in=0,
        bytes_out=0,
    )


def failed(round_: int) -> RoundFailed:
    return RoundFailed(round=round_, reason="0 of 2", counted=(), policy="retry")


def good_round(round_: int) -> list[Event]:
    clients: list[Event] = [make(round_, client) for client in CLIENTS for make in (training, counted)]
    return [opened(round_), *clients, RoundQuorum(round=round_, counted=2, grace_s=1.0), completed(round_)]


ACCEPTED: Final = JobAccepted(name="job", job=Job())
STARTED: Final = JobStarted(model=MODEL, parameters=1)
END: Final = JobCompleted(reason="2 rounds are done", rounds=2, accuracy=None, model=MODEL)
REFUSED: Final = UpdateRefused(topic="fl.updates.job.1.a.2", code="duplicate", reason="it is counted")
GOOD: Final[list[Event]] = [ACCEPTED, STARTED, *good_round(1), *good_round(2), END]


def log(events: list[Event]) -> list[Progress]:
    """Return a log of events with the ids that the server gives them: equal for a repetition."""
    return [Progress("job", event, 0.0, _id(event)) for event in events]


def _id(event: Event) -> str:
    names = ("round", "client", "attempt", "resumed", "topic")
    return ".".join((event.what, *(str(getattr(event, name)) for name in names if hasattr(event, name))))


def problems(events: list[Event]) -> list[str]:
    found = log(events)
    return oracle.repeated(found) + oracle.out_of_order(found) + oracle.missing(found) + oracle.counted_twice(found)


def without(event: Event) -> list[Event]:
    return [each for each in GOOD if each != event]


def test_a_log_where_all_is_well() -> None:
    assert problems(GOOD) == []


def test_a_resumed_round_and_a_second_attempt_are_possible() -> None:
    events = GOOD.copy()
    events[3:3] = [opened(1, resumed=True), training(1, "a", 2), REFUSED]
    assert problems([*events, REFUSED][:-1]) == []


def test_a_failed_round_is_possible() -> None:
    end = JobCompleted(reason="2 rounds are done", rounds=2, accuracy=None, model=MODEL)
    events = [ACCEPTED, STARTED, opened(1), training(1, "a"), failed(1), *good_round(2), *good_round(3), end]
    assert problems(events) == []


@pytest.mark.parametrize(
    ("event", "found"),
    [
        (opened(1), ["no round.opened 1"]),
        (training(2, "b"), ["no client.training 2 b"]),
        (counted(2, "a"), ["no update.counted 2 a"]),
        (END, ["0 ends of the job: []"]),
    ],
)
def test_a_missing_event_is_found(event: Event, found: list[str]) -> None:
    assert oracle.missing(log(without(event))) == found


def test_a_missing_round_is_found() -> None:
    assert oracle.missing(log(without(completed(1)))) == [
        "no end of round 1",
        "job.completed says 2 rounds, and 1 are in the log",
    ]


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (ACCEPTED, STARTED, "job.started where the job was new"),
        (opened(1), training(1, "a"), "client.training 1 a where that was 'not open'"),
        (training(1, "a"), counted(1, "a"), "update.counted 1 a where that was 'invited'"),
        (counted(2, "b"), completed(2), "update.counted 2 b where that was 'completed'"),
        (completed(2), END, "round.completed 2 where the job was ended"),
    ],
)
def test_an_impossible_order_is_found(first: Event, second: Event, found: str) -> None:
    events = without(first)
    events.insert(events.index(second) + 1, first)
    assert found in oracle.out_of_order(log(events))


def test_a_training_that_no_bridge_could_report_is_not_missed() -> None:
    events = log(without(training(1, "a")))
    assert oracle.out_of_order(events, is_reported=False) == oracle.missing(events, is_reported=False) == []


def test_a_failure_of_a_completed_round_is_found() -> None:
    events = GOOD.copy()
    events.insert(events.index(completed(2)) + 1, failed(2))
    assert oracle.out_of_order(log(events)) == ["round.failed 2 where that was 'completed'"]


def test_two_ends_are_found() -> None:
    assert oracle.missing(log([*GOOD, END])) == ["2 ends of the job: ['job.completed', 'job.completed']"]


def test_what_comes_after_the_end_is_found() -> None:
    assert oracle.missing(log([*GOOD, opened(3)])) == ["round.opened 3 after the end of the job"]


def test_a_repeated_event_is_found() -> None:
    assert oracle.repeated(log([*GOOD[:4], GOOD[3], *GOOD[4:]])) == ["2 times in the log: client.training.1.a.1"]


def test_a_client_that_is_counted_twice_is_found() -> None:
    second = Progress("job", counted(1, "a"), 0.0, "another id")
    assert oracle.counted_twice([*log(GOOD), second]) == ["counted 2 times: a in round 1"]
    twice = completed(1, "a", "b", "a")
    assert oracle.counted_twice(log([twice])) == ["round.completed 1 names a twice"]


def test_readers_that_see_different_logs_are_found() -> None:
    assert oracle.differences(log(GOOD), log(GOOD)) == []
    assert oracle.differences(log(GOOD), log(GOOD[1:])) == ["a durable subscriber does not get job.accepted"]
    assert oracle.differences(log(GOOD[1:]), log(GOOD)) == ["a plain subscriber does not get job.accepted"]


def test_what_a_job_leaves() -> None:
    usual = {"models": 2, "rounds": 1, "progress": 50}
    assert oracle.leftovers({"models": 2, "rounds": 1, "progress": 70}, usual) == []
    assert oracle.leftovers(Counter(updates=1, models=3), usual) == [
        "1 messages are left in fl.updates",
        "3 messages are left in fl.models; an undisturbed job leaves 2",
    ]


def test_what_has_grown() -> None:
    before = Usage(5, {"server": 150.0, "bridge": 150.0})
    assert oracle.growth(before, Usage(5, {"server": 170.0})) == []
    assert oracle.growth(before, Usage(6, {"server": 350.0})) == [
        "6 consumers, before it were 5",
        "server uses 350 MB, before it were 150",
    ]
