"""Reads what people write: unknown keys and wrong values are refused with the field, its value and what is allowed."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec import Meta, inspect

AtLeastOne = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]

S = TypeVar("S", bound=msgspec.Struct)

# msgspec keeps its facts in the text alone: "<what> - at `$.cohort.clients`".
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


class Mistake(NamedTuple):
    """A field (`cohort.clients`; empty: the whole), its value, and what would have been right."""

    field: str
    value: object
    allowed: str


class Invalid(ValueError):
    """Raised for what does not fit its schema; `mistake` says where."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(f"{mistake.field}: {mistake.allowed}")
        self.mistake = mistake


def strict(raw: object, schema: type[S]) -> S:
    """Convert decoded TOML or JSON that a person wrote; a key that the schema does not have is a mistake.

    Args:
        raw: tables, lists and plain values.
        schema: what it should be.

    Raises:
        Invalid: it has an unknown key, or a value that is not allowed.
    """
    for mistake in _unknown_keys(raw, _as_struct(schema), ""):
        raise Invalid(mistake)
    try:
        return msgspec.convert(raw, schema)
    except msgspec.ValidationError as exc:
        raise Invalid(_explained(exc, raw, schema)) from exc


def _explained(error: msgspec.ValidationError, raw: object, schema: type[msgspec.Struct]) -> Mistake:
    """What a refusal is about."""
    text = str(error)
    at = _AT.search(text)
    path = at["path"] if at else ""
    return Mistake(path, _value_at(raw, path), _allowed(schema, path, _AT.sub("", text)))


def _unknown_keys(raw: object, kind: inspect.Type, path: str) -> Iterator[Mistake]:
    """The keys in a value that its type does not have, the outer ones first."""
    match kind:
        case inspect.StructType() if isinstance(raw, Mapping):
            known = {field.encode_name: field.type for field in kind.fields}
            yield from (_unknown_key(f"{key}", raw[key], list(known), path) for key in raw if key not in known)
            for key in known.keys() & raw.keys():
                yield from _unknown_keys(raw[key], known[key], _below(path, key))
        case inspect.DictType() if isinstance(raw, Mapping):
            for key, value in raw.items():
                yield from _unknown_keys(value, kind.value_type, _below(path, f"{key}"))
        case inspect.VarTupleType() | inspect.ListType() if isinstance(raw, list | tuple):
            for i, value in enumerate(raw):
                yield from _unknown_keys(value, kind.item_type, f"{path}[{i}]")
        case inspect.UnionType():
            for part in kind.types:
                yield from _unknown_keys(raw, part, path)
        case _:
            pass


def _unknown_key(name: str, value: object, known: list[str], path: str) -> Mistake:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return Mistake(_below(path, name), value, f"no such key; {hint}known are {', '.join(known)}")


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _value_at(raw: object, path: str) -> object:
    for key in filter(None, path.split(".")):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def _as_struct(schema: type[msgspec.Struct]) -> inspect.StructType:
    return cast("inspect.StructType", inspect.type_info(schema))


def _type_at(schema: type[msgspec.Struct], path: str) -> inspect.Type | None:
    found: inspect.Type | None = _as_struct(schema)
    for key in filter(None, path.split(".")):
        fields = found.fields if isinstance(found, inspect.StructType) else ()
        found = next((field.type for field in fields if field.encode_name == key), None)
    return found


def _allowed(schema: type[msgspec.Struct], path: str, what: str) -> str:
    wanted = _type_at(schema, path)
    described = None if wanted is None else _described(wanted)
    return f"expected {described}" if described else what[:1].lower() + what[1:]


def _described(kind: inspect.Type) -> str | None:
    match kind:
        case inspect.Metadata(extra_json_schema={"description": str(description)}):
            return description
        case inspect.UnionType():
            parts = [_described(part) for part in kind.types if not isinstance(part, inspect.NoneType)]
            return " or ".join(filter(None, parts))
        case inspect.LiteralType():
            return "one of " + ", ".join(repr(value) for value in kind.values)
        case inspect.IntType():
            return "a whole number" + _bounds(kind)
        case inspect.FloatType():
            return "a number" + _bounds(kind)
        case inspect.StrType():
            return "a text"
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case _:
            return None


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    limits: dict[str, Any] = {">=": kind.ge, ">": kind.gt, "<=": kind.le, "<": kind.lt}
    shown = [f"{sign} {limit}" for sign, limit in limits.items() if limit is not None]
    return f" {' and '.join(shown)}" if shown else ""
