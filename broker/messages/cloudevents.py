"""CloudEvents 1.0 in JSON, structured mode: the form of job, task, invocation and progress messages.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import re
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from broker.messages import codec
from broker.messages.errors import DecodeError

T = TypeVar("T")

PREFIX: Final = "dev.fedkeeper."
"""Prefix of every event type: reverse DNS, as the specification recommends."""

_PREFIX_OF_0_1: Final = "fedkeeper."

SCHEMAS: Final = "https://fedkeeper.dev/schemas"
"""Base of `dataschema`; the schema number and the event's name follow. The files are in docs/schemas/."""

_SCHEMA: Final = re.compile(re.escape(SCHEMAS) + r"/([0-9]{1,9})/.+")


class Envelope(msgspec.Struct, frozen=True):
    """The attributes of an event, without its data.

    Attributes:
        id: unique within `source`; a repeated event has the same id.
        source: the producer, a path such as `/server` or `/bridges/local`.
        type: the event type, without the prefix.
        time_s: when the event happened, in seconds since the epoch.
        subject: the job or client that the event is about.
        schema: schema number of the data.
    """

    id: str
    source: str
    type: str
    time_s: float
    subject: str = ""
    schema: int = codec.SCHEMA


class _CloudEvent(msgspec.Struct, kw_only=True):
    """An event as it is on the wire."""

    id: str
    source: str
    type: str
    data: msgspec.Raw
    specversion: str = "1.0"
    time: str | None = None
    subject: str | None = None
    datacontenttype: str = "application/json"
    dataschema: str | None = None


class _Identity(msgspec.Struct):
    """The fields that tell whether a payload is an event, and which one."""

    id: str = ""
    specversion: str | None = None


def encode(envelope: Envelope, data: Any) -> bytes:
    """Encode an event as JSON.

    Args:
        envelope: the event's attributes.
        data: any value that msgspec can encode.
    """
    return codec.encode(
        _CloudEvent(
            id=envelope.id,
            source=envelope.source,
            type=PREFIX + envelope.type,
            time=datetime.fromtimestamp(envelope.time_s, UTC).isoformat(),
            subject=envelope.subject or None,
            dataschema=f"{SCHEMAS}/{envelope.schema}/{envelope.type}.json",
            data=msgspec.Raw(codec.encode(data)),
        )
    )


def decode(payload: bytes) -> tuple[Envelope, bytes]:
    """Return an event's envelope, and its data as JSON.

    Raises:
        DecodeError: the payload is not a CloudEvent.
    """
    event = codec.decode(_CloudEvent, payload)
    try:
        time_s = datetime.fromisoformat(event.time).timestamp() if event.time else 0.0
    except ValueError as exc:
        raise DecodeError(f"not a valid CloudEvent: {exc}") from exc
    name = event.type.removeprefix(PREFIX).removeprefix(_PREFIX_OF_0_1)
    match = _SCHEMA.fullmatch(event.dataschema or "")
    schema = int(match[1]) if match else codec.SCHEMA
    return Envelope(event.id, event.source, name, time_s, event.subject or "", schema), bytes(event.data)


def data_of(payload: bytes, kind: type[T]) -> T:
    """Decode an event and return its data.

    Args:
        payload: the event in JSON.
        kind: class of the data.

    Raises:
        SchemaTooNew: the data has a newer schema than this program knows.
        DecodeError: the payload is not a CloudEvent, or its data does not fit the class.
    """
    envelope, data = decode(payload)
    codec.check_schema(kind, envelope.schema)
    return codec.decode(kind, data)


def id_of(payload: bytes) -> str:
    """Return the id of a CloudEvent; empty if the payload is none."""
    event = codec.decode_partial(_Identity, payload)
    return "" if event is None or event.specversion is None else event.id


def unwrap(payload: bytes) -> bytes:
    """Return the data of a CloudEvent, or the payload itself if it is not a CloudEvent.

    Raises:
        DecodeError: the payload has a `specversion` but is not a valid CloudEvent.
    """
    raw = codec.decode_partial(object, payload)
    return decode(payload)[1] if isinstance(raw, dict) and "specversion" in raw else payload
