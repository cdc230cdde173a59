"""CloudEvents 1.0 in JSON: ours are valid, others' are read, garbage is refused."""

import json
from datetime import datetime
from typing import Any

import msgspec
import pytest

from broker.messages import cloudevents
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.round import BlobRef

ENVELOPE = Envelope("demo.1.c-0", "/server", "round.task", 1_700_000_000.25, "c-0")
DATA = BlobRef("fl.models.demo.x", "ab" * 32, 5)


def event(**changes: Any) -> bytes:
    """A minimal event of another producer."""
    fields = {"specversion": "1.0", "id": "7", "source": "/elsewhere", "type": "job", "data": {"name": "demo"}}
    return json.dumps({key: value for key, value in (fields | changes).items() if value != "absent"}).encode()


def test_an_event_has_the_attributes_that_the_specification_requires() -> None:
    raw = json.loads(cloudevents.encode(ENVELOPE, DATA))
    assert raw == {
        "specversion": "1.0",
        "id": "demo.1.c-0",
        "source": "/server",
        "type": "dev.fedkeeper.round.task",
        "subject": "c-0",
        "time": "2023-11-14T22:13:20.250000+00:00",
        "datacontenttype": "application/json",
        "dataschema": "https://fedkeeper.dev/schemas/1/round.task.json",
        "data": {"topic": "fl.models.demo.x", "sha256": "ab" * 32, "bytes": 5},
    }
    assert datetime.fromisoformat(raw["time"]).timestamp() == ENVELOPE.time_s


@pytest.mark.parametrize("time_s", [0.0, 1.0, 1_700_000_000.0, 1_700_000_000.123456])
def test_an_event_comes_back(time_s: float) -> None:
    envelope = Envelope("id", "/server", "round.task", time_s)
    got, data = cloudevents.decode(cloudevents.encode(envelope, DATA))
    assert got == envelope
    assert msgspec.json.decode(data, type=BlobRef) == DATA
    assert cloudevents.data_of(cloudevents.encode(envelope, DATA), BlobRef) == DATA


def test_another_producer_s_event_is_read() -> None:
    got, data = cloudevents.decode(event(time="2023-11-14T22:13:20Z", traceparent="00-ab-cd-01", dataschema=None))
    assert got == Envelope("7", "/elsewhere", "job", 1_700_000_000.0)
    assert json.loads(data) == {"name": "demo"}


def test_types_of_version_0_1_are_read() -> None:
    assert cloudevents.decode(event(type="fedkeeper.round.task"))[0].type == "round.task"


def test_data_of_a_newer_schema_are_refused() -> None:
    newer = msgspec.structs.replace(ENVELOPE, schema=2)
    blob = cloudevents.encode(newer, DATA)
    assert cloudevents.decode(blob)[0] == newer
    with pytest.raises(SchemaTooNew):
        cloudevents.data_of(blob, BlobRef)


@pytest.mark.parametrize("uri", [None, "", "https://elsewhere/2/x.json", f"{cloudevents.SCHEMAS}/x/y.json", "a b"])
def test_a_foreign_data_schema_is_ignored(uri: str | None) -> None:
    assert cloudevents.decode(event(dataschema=uri))[0].schema == 1


def test_an_event_without_a_time_happened_at_the_epoch() -> None:
    assert cloudevents.decode(event())[0].time_s == 0.0


@pytest.mark.parametrize("data", [None, 0, "text", [1, 2], {}])
def test_data_may_be_any_json(data: Any) -> None:
    assert json.loads(cloudevents.decode(event(data=data))[1]) == data


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"[]",
        b"\xff",
        b'{"id": "\xff"}',
        b'{"a":' * 50_000,
        *(event(**{required: "absent"}) for required in ("id", "source", "type", "data")),
        event(id=7),
        event(time="yesterday"),
        event(time="0001-01-01T00:00:00"),
        event(time=5),
    ],
)
def test_an_invalid_event_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="not a valid CloudEvent"):
        cloudevents.decode(payload)
    with pytest.raises(DecodeError, match="not a valid CloudEvent"):
        cloudevents.data_of(payload, BlobRef)


@pytest.mark.parametrize("data", [None, {}, {"topic": 3, "sha256": "", "bytes": 0}, {"topic": "a", "sha256": "b"}])
def test_data_of_another_kind_are_refused(data: Any) -> None:
    with pytest.raises(DecodeError, match="not a valid BlobRef"):
        cloudevents.data_of(event(data=data), BlobRef)


def test_deep_data_are_refused() -> None:
    deep = event(data="here").replace(b'"here"', b'{"topic":' + b"[" * 900 + b"]" * 900 + b"}")
    with pytest.raises(DecodeError):
        cloudevents.data_of(deep, BlobRef)


def test_an_event_is_unwrapped_and_a_bare_object_is_not() -> None:
    assert json.loads(cloudevents.unwrap(event())) == {"name": "demo"}
    for bare in (b'{"name": "demo"}', b"[1]", b"garbage", b"", b'{"a": "\xff"}', b'{"a":' * 50_000):
        assert cloudevents.unwrap(bare) == bare


def test_an_invalid_event_is_not_taken_for_a_bare_object() -> None:
    with pytest.raises(DecodeError, match="not a valid CloudEvent"):
        cloudevents.unwrap(event(data="absent"))
