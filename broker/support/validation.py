"""Bounds that several schemas share, and msgspec's refusals as a field, its value and what is allowed."""

import difflib
import re
from typing import Annotated, Any, NamedTuple, cast

import msgspec
from msgspec import Meta, inspect

AtLeastOne = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]

# msgspec keeps its facts in the text alone: "<what> - at `$.cohort.clients`".
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")


class Mistake(NamedTuple):
    """A field (`cohort.clients`; empty: the whole), its value, and what would have been right."""

    field: str
    value: object
    allowed: str


def explained(error: msgspec.ValidationError, raw: object, schema: type[msgspec.Struct]) -> Mistake:
    """What a refusal is about."""
    text = str(error)
    at = _AT.search(text)
    path = at["path"] if at else ""
    what = _AT.sub("", text)
    unknown = _UNKNOWN.search(what)
    if unknown:
        return _unknown_key(path, unknown["name"], raw, schema)
    return Mistake(path, _value_at(raw, path), _allowed(schema, path, what))


def _unknown_key(path: str, name: str, raw: object, schema: type[msgspec.Struct]) -> Mistake:
    known = [field.name for field in _struct_at(schema, path).fields]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    field = f"{path}.{name}" if path else name
    return Mistake(field, _value_at(raw, field), f"no such key; {hint}known are {', '.join(known)}")


def _value_at(raw: object, path: str) -> object:
    for key in filter(None, path.split(".")):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def _struct_at(schema: type[msgspec.Struct], path: str) -> inspect.StructType:
    found = _type_at(schema, path)
    return found if isinstance(found, inspect.StructType) else _as_struct(schema)


def _as_struct(schema: type[msgspec.Struct]) -> inspect.StructType:
    return cast("inspect.StructType", inspect.type_info(schema))


def _type_at(schema: type[msgspec.Struct], path: str) -> inspect.Type | None:
    found: inspect.Type | None = _as_struct(schema)
    for key in filter(None, path.split(".")):
        fields = found.fields if isinstance(found, inspect.StructType) else ()
        found = next((field.type for field in fields if field.name == key), None)
    return found


def _allowed(schema: type[msgspec.Struct], path: str, what: str) -> str:
    wanted = _type_at(schema, path)
    described = None if wanted is None else _described(wanted)
    return f"expected {described}" if described else what[:1].lower() + what[1:]


def _described(kind: inspect.Type) -> str | None:
    match kind:
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
