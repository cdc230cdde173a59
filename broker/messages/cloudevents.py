"""CloudEvents 1.0 in JSON, structured mode: how job, task, invocation and progress messages travel.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from broker.errors import UNREADABLE
from broker.messages import codec
from broker.messages.errors import DecodeError

T = TypeVar("T")

_PREFIX = "fedkeeper."


class _Event(msgspec.Struct, kw_only=True):
    id: str
    source: str
    type: str
    data: msgspec.Raw
    specversion: str = "1.0"
    time: str | None = None
    subject: str | None = None
    datacontenttype: str = "application/json"


class Envelope(msgspec.Struct, frozen=True):
    """What an event says of itself.

    Attributes:
        id: unique within `source`; a repetition has the same.
        source: who says it, a path such as `/server` or `/bridges/local`.
        type: what it is, without the `fedkeeper.` in front.
        time_s: when it happened, seconds since the epoch.
        subject: whom it is about.
    """

    id: str
    source: str
    type: str
    time_s: float
    subject: str = ""


def encode(envelope: Envelope, data: Any) -> bytes:
    """The event as JSON; `data` is anything that msgspec encodes."""
    return msgspec.json.encode(
        _Event(
            id=envelope.id,
            source=envelope.source,
            type=_PREFIX + envelope.type,
            time=datetime.fromtimestamp(envelope.time_s, UTC).isoformat(),
            subject=envelope.subject or None,
            data=msgspec.Raw(msgspec.json.encode(data)),
        )
    )


def decode(payload: bytes) -> tuple[Envelope, bytes]:
    """An event's envelope, and its data as JSON.

    Raises:
        DecodeError: it is no CloudEvent.
    """
    try:
        event = msgspec.json.decode(payload, type=_Event)
        at = datetime.fromisoformat(event.time).timestamp() if event.time else 0.0
    except UNREADABLE as exc:
        raise DecodeError(f"not a CloudEvent: {exc}") from exc
    kind = event.type.removeprefix(_PREFIX)
    return Envelope(event.id, event.source, kind, at, event.subject or ""), bytes(event.data)


def data_of(payload: bytes, kind: type[T]) -> T:
    """The data of an event, decoded.

    Raises:
        DecodeError: it is no CloudEvent, or its data is not of that kind.
    """
    _, data = decode(payload)
    return codec.decode(kind, data)


def unwrapped(payload: bytes) -> bytes:
    """The data of a CloudEvent, or the payload itself if it is a bare JSON object."""
    try:
        raw = msgspec.json.decode(payload)
    except UNREADABLE:
        return payload
    return decode(payload)[1] if isinstance(raw, dict) and "specversion" in raw else payload
