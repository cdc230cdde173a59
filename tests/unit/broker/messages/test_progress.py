"""Progress events: encoding, decoding and topics."""

import json
from typing import get_args

import pytest

from broker import families, topics
from broker.errors import BadTopic
from broker.messages import cloudevents, progress
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.job import Job
from broker.messages.job_sections import Stop
from broker.messages.progress import FINAL_EVENTS, Event, JobAccepted, JobFailed, Progress, RoundQuorum
from broker.support import filters


def test_there_is_an_example_of_every_class(events: tuple[Event, ...]) -> None:
    assert {type(event) for event in events} == set(get_args(Event))


def test_every_event_comes_back(events: tuple[Event, ...]) -> None:
    for event in events:
        message = Progress("demo", event, 1_700_000_000.5, f"demo.{event.what}.1")
        assert progress.decode(progress.encode(message)) == message


def test_every_event_has_a_topic_of_its_own(events: tuple[Event, ...]) -> None:
    got = {progress.topic_of("demo", event) for event in events}
    assert len(got) == len(events)
    assert all(filters.matches(topics.job_progress("demo"), topic) for topic in got)
    assert all(families.family_of(topic).name == "PROGRESS" for topic in got)


def test_an_event_is_named_by_its_class(events: tuple[Event, ...]) -> None:
    for event in events:
        assert event.what.replace(".", "") == type(event).__name__.lower()


def test_a_topic_needs_a_legal_job_id(events: tuple[Event, ...]) -> None:
    with pytest.raises(BadTopic):
        progress.topic_of("Demo", events[0])


def test_the_job_is_the_event_s_subject() -> None:
    raw = json.loads(progress.encode(Progress("demo", RoundQuorum(round=1, counted=2, grace_s=5.0), 1.0, "x")))
    assert (raw["subject"], raw["type"], raw["id"]) == ("demo", "dev.fedkeeper.round.quorum", "x")
    assert raw["data"] == {"round": 1, "counted": 2, "grace_s": 5.0}


def test_the_accepted_job_is_a_json_object_that_needs_no_second_parser() -> None:
    accepted = JobAccepted(name="mine", job=Job(name="mine", stop=Stop(rounds=7)))
    raw = json.loads(progress.encode(Progress("mine", accepted, 1.0, "x")))
    assert raw["data"]["job"]["stop"] == {
        "rounds": 7,
        "target_accuracy": None,
        "metric": "",
        "target": None,
        "patience": 0,
    }


def test_the_last_events_of_a_job() -> None:
    assert {kind.what for kind in FINAL_EVENTS} == {"job.rejected", "job.completed", "job.failed", "job.cancelled"}


def test_a_newer_server_s_fields_are_ignored() -> None:
    blob = cloudevents.encode(Envelope("x", "/server", "job.failed", 1.0, "demo"), {"reason": "r", "hint": "h"})
    assert progress.decode(blob).event == JobFailed(reason="r")


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("job.exploded", {}, "no such progress event: job.exploded"),
        ("job.failed", {}, "not a valid JobFailed"),
        ("job.accepted", {"name": "demo", "job": 'name = "demo"'}, "not a valid JobAccepted"),  # as 0.1 wrote it
        ("job.failed", {"reason": 3}, "not a valid JobFailed"),
        ("round.completed", {"round": 1}, "not a valid RoundCompleted"),
        ("round.quorum", [], "not a valid RoundQuorum"),
    ],
)
def test_an_unknown_event_is_refused(kind: str, data: object, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        progress.decode(cloudevents.encode(Envelope("x", "/server", kind, 1.0, "demo"), data))


def test_an_event_of_a_newer_schema_is_refused() -> None:
    with pytest.raises(SchemaTooNew):
        progress.decode(cloudevents.encode(Envelope("x", "/server", "job.failed", 1.0, "demo", 2), {"reason": "r"}))


@pytest.mark.parametrize("payload", [b"", b"garbage", b"{}", b"\xff", b"[" * 50_000])
def test_garbage_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        progress.decode(payload)
