"""The codec of every JSON message.

Files that people write are strict; messages that programs send are tolerant: a field that this version does not know is
ignored, so that neighbouring versions work together. A message that older versions would misunderstand has a higher
`schema`, and they refuse it.
"""

from typing import Any, Final, TypeVar

import msgspec

from broker.errors import UNREADABLE
from broker.messages.errors import DecodeError, SchemaTooNew

T = TypeVar("T")

SCHEMA: Final = 1
"""Version of the messages. It changes only where older programs would misunderstand; a new field alone is ignored."""


class _Marks(msgspec.Struct):
    """Where a message, or the one inside it, says its schema; absent in those of version 0.1."""

    schema: Any = SCHEMA
    task: Any = None
    function: Any = None


def encode(message: Any) -> bytes:
    """The JSON of a message; the same message always gives the same bytes."""
    return msgspec.json.encode(message)


def decode(kind: type[T], payload: bytes) -> T:
    """The message in some JSON.

    Args:
        kind: the class of the message. Where it has an attribute `upgrade`, the message's schema is checked first.
        payload: what was received.

    Raises:
        SchemaTooNew: it is of a newer schema, whether or not its fields would fit.
        DecodeError: it is not such a message.
    """
    try:
        if hasattr(kind, "upgrade"):
            marks = msgspec.json.decode(payload, type=_Marks)
            inside = (part.get("schema") for part in (marks.task, marks.function) if isinstance(part, dict))
            for schema in (marks.schema, *inside):
                check_schema(kind, schema)
        return msgspec.json.decode(payload, type=kind)
    except UNREADABLE as exc:
        raise DecodeError(f"not a valid {kind.__name__.lstrip('_')}: {exc}") from exc


def check_schema(kind: type, schema: object) -> None:
    """Refuse a message of a newer schema.

    Args:
        kind: the class of the message; its `upgrade` says what is to be done then.
        schema: what the message says; no number, and the fields' own check refuses it.

    Raises:
        SchemaTooNew: it is newer.
    """
    if isinstance(schema, int) and schema > SCHEMA:
        raise SchemaTooNew(kind.__name__, schema, SCHEMA, getattr(kind, "upgrade", "upgrade this program"))


def plain(payload: bytes | str) -> Any:
    """Any JSON, as tables, lists and plain values.

    Raises:
        DecodeError: it is none.
    """
    try:
        return msgspec.json.decode(payload)
    except UNREADABLE as exc:
        raise DecodeError(f"not JSON: {exc}") from exc


def glimpse(kind: type[T], payload: bytes) -> T | None:
    """What can be read of a message of any schema; None: not even that.

    Args:
        kind: a struct of the few fields that are wanted.
        payload: what was received.
    """
    try:
        return msgspec.json.decode(payload, type=kind)
    except UNREADABLE:
        return None
