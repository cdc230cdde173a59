"""Encodes and decodes every JSON message.

Files that people write are strict. Messages that programs send are tolerant: a decoder ignores a field that it does not
know, so that neighbouring versions work together. A message that an older version would misunderstand carries a higher
`schema`, and the older version refuses it.
"""

from typing import Any, Final, TypeVar

import msgspec

from broker.messages.errors import DecodeError, SchemaTooNew
from broker.support.decoding import UNREADABLE

T = TypeVar("T")

SCHEMA: Final = 1
"""Schema number of the messages. It grows only when an older program would misunderstand a message, not for every new
field."""


class _Schemas(msgspec.Struct):
    """The places where a message, or the message inside it, carries its schema. Version 0.1 wrote none."""

    schema: Any = SCHEMA
    task: Any = None
    function: Any = None


def encode(message: Any) -> bytes:
    """Encode a message as JSON. Equal messages give equal bytes."""
    return msgspec.json.encode(message)


def encode_readable(message: Any) -> bytes:
    """Encode a message as JSON after checking that it can be decoded again.

    msgspec writes a number that is not finite as `null`, which no decoder takes for a number.

    Raises:
        DecodeError: nobody could read the message.
    """
    payload = encode(message)
    decode(type(message), payload)
    return payload


def decode(kind: type[T], payload: bytes) -> T:
    """Decode a message from JSON.

    Args:
        kind: class of the message. If it has an attribute `upgrade`, the message's schema is checked first.
        payload: the JSON.

    Raises:
        SchemaTooNew: the message has a newer schema than this program knows, even if its fields would fit.
        DecodeError: the payload is not such a message.
    """
    try:
        if hasattr(kind, "upgrade"):
            schemas = msgspec.json.decode(payload, type=_Schemas)
            inner = (part.get("schema") for part in (schemas.task, schemas.function) if isinstance(part, dict))
            for schema in (schemas.schema, *inner):
                check_schema(kind, schema)
        return msgspec.json.decode(payload, type=kind)
    except UNREADABLE as exc:
        raise DecodeError(f"not a valid {kind.__name__.lstrip('_')}: {exc}") from exc


def check_schema(kind: type, schema: object) -> None:
    """Refuse a message with a newer schema.

    Args:
        kind: class of the message; its `upgrade` says which side to upgrade.
        schema: the message's schema. A value that is not a number passes: the decoder refuses it later.

    Raises:
        SchemaTooNew: the schema is newer than this program knows.
    """
    if isinstance(schema, int) and schema > SCHEMA:
        raise SchemaTooNew(kind.__name__, schema, SCHEMA, getattr(kind, "upgrade", "upgrade this program"))


def decode_any(payload: bytes | str) -> Any:
    """Decode any JSON into tables, lists and plain values.

    Raises:
        DecodeError: the payload is not JSON.
    """
    try:
        return msgspec.json.decode(payload)
    except UNREADABLE as exc:
        raise DecodeError(f"not JSON: {exc}") from exc


def decode_partial(kind: type[T], payload: bytes) -> T | None:
    """Decode the few fields of a class from a message of any schema, or return None if they are not there.

    Args:
        kind: a struct with the fields to read.
        payload: the JSON.
    """
    try:
        return msgspec.json.decode(payload, type=kind)
    except UNREADABLE:
        return None
