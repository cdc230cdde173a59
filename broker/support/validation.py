"""Strict validation of files that people write: errors name the field, its value and what is allowed."""

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

# msgspec gives the path only in the text of its error: "<reason> - at `$.cohort.clients`".
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


class Mistake(NamedTuple):
    """What is wrong with a file.

    Attributes:
        field: path of the field, such as `cohort.clients`; empty for the whole file.
        value: the value in the file.
        allowed: what is allowed instead.
    """

    field: str
    value: object
    allowed: str


class Invalid(ValueError):
    """Raised when data does not match its schema.

    Attributes:
        mistake: the first mistake.
    """

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(f"{mistake.field}: {mistake.allowed}")
        self.mistake = mistake


def strict(raw: object, schema: type[S]) -> S:
    """Convert decoded TOML or JSON to a struct; unknown keys are errors.

    Args:
        raw: the decoded data: tables, lists and plain values.
        schema: the struct to return.

    Raises:
        Invalid: the data has an unknown key, or a value that is not allowed.
    """
    for mistake in _unknown_keys(raw, _as_struct(schema), ""):
        raise Invalid(mistake)
    try:
        return msgspec.convert(raw, schema)
    except msgspec.ValidationError as exc:
        text = str(exc)
        match = _AT.search(text)
        path = match["path"] if match else ""
        kind = _type_at(schema, path)
        description = None if kind is None else _describe(kind)
        reason = _AT.sub("", text)
        allowed = f"expected {description}" if description else reason[:1].lower() + reason[1:]
        raise Invalid(Mistake(path, _value_at(raw, path), allowed)) from exc


def _unknown_keys(raw: object, kind: inspect.Type, path: str) -> Iterator[Mistake]:
    """Yield the keys of a value that its type does not have, outer keys first."""
    match kind:
        case inspect.StructType() if isinstance(raw, Mapping):
            known = {field.encode_name: field.type for field in kind.fields}
            yield from (_unknown_key(f"{key}", raw[key], list(known), path) for key in raw if key not in known)
            for key in known.keys() & raw.keys():
                yield from _unknown_keys(raw[key], known[key], _join(path, key))
        case inspect.DictType() if isinstance(raw, Mapping):
            for key, value in raw.items():
                yield from _unknown_keys(value, kind.value_type, _join(path, f"{key}"))
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
    return Mistake(_join(path, name), value, f"no such key; {hint}known are {', '.join(known)}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _value_at(raw: object, path: str) -> object:
    for key in filter(None, path.split(".")):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def _as_struct(schema: type[msgspec.Struct]) -> inspect.StructType:
    return cast("inspect.StructType", inspect.type_info(schema))


def _type_at(schema: type[msgspec.Struct], path: str) -> inspect.Type | None:
    kind: inspect.Type | None = _as_struct(schema)
    for key in filter(None, path.split(".")):
        fields = kind.fields if isinstance(kind, inspect.StructType) else ()
        kind = next((field.type for field in fields if field.encode_name == key), None)
    return kind


def _describe(kind: inspect.Type) -> str | None:
    """Return a description of a type for people; None if there is no short one."""
    match kind:
        case inspect.Metadata(extra_json_schema={"description": str(description)}):
            return description
        case inspect.UnionType():
            parts = [_describe(part) for part in kind.types if not isinstance(part, inspect.NoneType)]
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
    bounds = [f"{sign} {limit}" for sign, limit in limits.items() if limit is not None]
    return f" {' and '.join(bounds)}" if bounds else ""
