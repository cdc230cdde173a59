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
_STEP = re.compile(r"\[[^\]]*\]|[^.\[]+")
_ANY_KEY = "[...]"
"""What stands in msgspec's path for a key that the person who wrote the table has chosen."""

Path = tuple[str, ...]
"""Keys of nested tables; `[0]` for the first entry of a list."""


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


def fields_of(struct: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """Yield the name of each field as files and messages have it, and its value."""
    for name, encoded in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True):
        yield encoded, getattr(struct, name)


def strict(raw: object, schema: type[S]) -> S:
    """Convert decoded TOML or JSON to a struct; unknown keys are errors.

    Args:
        raw: the decoded data: tables, lists and plain values.
        schema: the struct to return.

    Raises:
        Invalid: the data has an unknown key, or a value that is not allowed.
    """
    kind = cast("inspect.StructType", inspect.type_info(schema))
    for mistake in _wrong_keys(raw, kind, ""):
        raise Invalid(mistake)
    try:
        return msgspec.convert(raw, schema)
    except msgspec.ValidationError as exc:
        path = _path_with_keys(raw, schema, _path_in(exc))
        wrong = _type_at(kind, raw, path)
        description = None if wrong is None else _describe(wrong)
        reason = _AT.sub("", str(exc))
        allowed = f"expected {description}" if description else reason[:1].lower() + reason[1:]
        field = "".join(key if key.startswith("[") else f".{key}" for key in path).removeprefix(".")
        raise Invalid(Mistake(field, _value_at(raw, path), allowed)) from exc


def _wrong_keys(raw: object, kind: inspect.Type, path: str) -> Iterator[Mistake]:
    """Yield the keys of a value that its type does not have, outer keys first, and the tags that choose no type."""
    match kind:
        case inspect.StructType() if isinstance(raw, Mapping):
            known = _fields_of(kind)
            of = f" for {kind.tag!r}" if kind.tag_field else ""
            yield from (_unknown_key(f"{key}", raw[key], list(known), path, of) for key in raw if key not in known)
            for key in known.keys() & raw.keys():
                yield from _wrong_keys(raw[key], known[key], _join(path, key))
        case inspect.DictType() if isinstance(raw, Mapping):
            for key, value in raw.items():
                yield from _wrong_keys(value, kind.value_type, _join(path, f"{key}"))
        case inspect.VarTupleType() | inspect.ListType() if isinstance(raw, list | tuple):
            for i, value in enumerate(raw):
                yield from _wrong_keys(value, kind.item_type, f"{path}[{i}]")
        case inspect.UnionType() if _tag_field(kind) and isinstance(raw, Mapping):
            chosen = _chosen(kind, raw)
            yield from _wrong_tag(raw, kind, path) if chosen is kind else _wrong_keys(raw, chosen, path)
        case inspect.UnionType():
            for part in kind.types:
                yield from _wrong_keys(raw, part, path)
        case _:
            pass


def _fields_of(kind: inspect.StructType) -> dict[str, inspect.Type]:
    tag = {kind.tag_field: inspect.AnyType()} if kind.tag_field else {}
    return {**tag, **{field.encode_name: field.type for field in kind.fields}}


def _unknown_key(name: str, value: object, known: list[str], path: str, of: str = "") -> Mistake:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return Mistake(_join(path, name), value, f"no such key; {hint}known{of} are {', '.join(known)}")


def _tag_field(kind: inspect.UnionType) -> str:
    """Return the key whose value says which of a union's types a table has; empty: there is no such key."""
    return next((part.tag_field for part in kind.types if isinstance(part, inspect.StructType) and part.tag_field), "")


def _chosen(kind: inspect.Type, raw: object) -> inspect.Type:
    """Return the type of a union that a table's tag chooses, or the type itself if nothing is to be chosen."""
    if not isinstance(kind, inspect.UnionType) or not isinstance(raw, Mapping):
        return kind
    tables = [part for part in kind.types if isinstance(part, inspect.StructType)]
    return next((part for part in tables if part.tag_field is None or part.tag == raw.get(part.tag_field)), kind)


def _wrong_tag(raw: Mapping[Any, Any], kind: inspect.UnionType, path: str) -> Iterator[Mistake]:
    """Yield why a table's tag chooses none of a union's types. A key that may be the misspelt tag comes first."""
    tag, tables = _tag_field(kind), [part for part in kind.types if isinstance(part, inspect.StructType)]
    if tag not in raw:
        known = list(dict.fromkeys(key for part in tables for key in _fields_of(part)))
        yield from (_unknown_key(f"{key}", raw[key], known, path) for key in raw if key not in known)
    choices = "expected one of " + ", ".join(repr(part.tag) for part in tables)
    yield Mistake(_join(path, tag), raw.get(tag), choices if tag in raw else f"missing; {choices}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _path_in(error: msgspec.ValidationError) -> Path:
    match = _AT.search(str(error))
    return tuple(_STEP.findall(match["path"])) if match else ()


def _path_with_keys(raw: object, schema: type[msgspec.Struct], path: Path) -> Path:
    """Return msgspec's path with the key in each place that it leaves open: that of the first value with its error."""
    keys: Path = ()
    for step in path:
        key = step
        if step == _ANY_KEY:
            table = cast("Mapping[str, object]", _value_at(raw, keys))
            alone = ((name, _replaced(raw, keys, {name: value})) for name, value in table.items())
            key, raw = next((name, part) for name, part in alone if _wrong_path(part, schema) == path)
        keys = (*keys, key)
    return keys


def _wrong_path(raw: object, schema: type[msgspec.Struct]) -> Path:
    try:
        msgspec.convert(raw, schema)
    except msgspec.ValidationError as exc:
        return _path_in(exc)
    return ()


def _replaced(raw: Any, path: Path, value: object) -> object:
    """Return data with another value at a path."""
    if not path:
        return value
    key, *rest = path
    if isinstance(raw, Mapping):
        return {**raw, key: _replaced(raw[key], tuple(rest), value)}
    at = int(key.strip("[]"))
    return [*raw[:at], _replaced(raw[at], tuple(rest), value), *raw[at + 1 :]]


def _value_at(raw: object, path: Path) -> object:
    for key in path:
        match raw:
            case Mapping():
                raw = raw.get(key)
            case list() | tuple():
                raw = raw[int(key.strip("[]"))]
            case _:
                return None
    return raw


def _type_at(kind: inspect.Type, raw: object, path: Path) -> inspect.Type | None:
    for i, key in enumerate(path):
        match _chosen(kind, _value_at(raw, path[:i])):
            case inspect.StructType() as table if key in _fields_of(table):
                kind = _fields_of(table)[key]
            case inspect.DictType(value_type=inner) | inspect.ListType(item_type=inner):
                kind = inner
            case inspect.VarTupleType(item_type=inner):
                kind = inner
            case _:
                return None
    return kind


def _describe(kind: inspect.Type) -> str | None:
    """Return a description of a type for people; None if there is no short one."""
    match kind:
        case inspect.Metadata(extra_json_schema={"description": str(description)}):
            return description
        case inspect.UnionType():
            parts = [_describe(part) for part in kind.types if not isinstance(part, inspect.NoneType)]
            return " or ".join(dict.fromkeys(filter(None, parts)))
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
