"""CloudEvents 1.0 in JSON, structured mode: how job, task, invocation and progress messages travel.

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
"""In front of every type: reverse DNS, as the specification wants it."""

_PREFIX_OF_0_1: Final = "fedkeeper."

SCHEMAS: Final = "https://fedkeeper.dev/schemas"
"""What `dataschema` begins with; the number of the schema and the event's name follow. docs/schemas/ has the files."""

_SCHEMA: Final = re.compile(re.escape(SCHEMAS) + r"/([0-9]{1,9})/.+")


class _CloudEvent(msgspec.Struct, kw_only=True):
    id: str
    source: str
    type: str
    data: msgspec.Raw
    specversion: str = "1.0"
    time: str | None = None
    subject: str | None = None
    datacontenttype: str = "application/json"
    dataschema: str | None = None


class Envelope(msgspec.Struct, frozen=True):
    """What an event says of itself.

    Attributes:
        id: unique within `source`; a repetition has the same.
        source: who says it, a path such as `/server` or `/bridges/local`.
        type: what it is, without the prefix.
        time_s: when it happened, seconds since the epoch.
        subject: whom it is about.
        schema: version of its data.
    """

    id: str
    source: str
    type: str
    time_s: float
    subject: str = ""
    schema: int = codec.SCHEMA


def encode(envelope: Envelope, data: Any) -> bytes:
    """The event as JSON; `data` is anything that msgspec encodes."""
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
    """An event's envelope, and its data as JSON.

    Raises:
        DecodeError: it is no CloudEvent.
    """
    event = codec.decode(_CloudEvent, payload)
    try:
        at = datetime.fromisoformat(event.time).timestamp() if event.time else 0.0
    except ValueError as exc:
        raise DecodeError(f"not a valid CloudEvent: {exc}") from exc
    kind = event.type.removeprefix(PREFIX).removeprefix(_PREFIX_OF_0_1)
    schema = _SCHEMA.fullmatch(event.dataschema or "")
    of = int(schema[1]) if schema else codec.SCHEMA
    return Envelope(event.id, event.source, kind, at, event.subject or "", of), bytes(event.data)


def data_of(payload: bytes, kind: type[T]) -> T:
    """The data of an event, decoded.

    Raises:
        SchemaTooNew: its data is of a newer schema.
        DecodeError: it is no CloudEvent, or its data is not of that kind.
    """
    envelope, data = decode(payload)
    codec.check_schema(kind, envelope.schema)
    return codec.decode(kind, data)


def unwrapped(payload: bytes) -> bytes:
    """The data of a CloudEvent, or the payload itself if it is a bare JSON object."""
    raw = codec.glimpse(object, payload)
    return decode(payload)[1] if isinstance(raw, dict) and "specversion" in raw else payload
