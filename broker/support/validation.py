"""Strict validation of files that people write: errors name the field, its value and what is allowed."""

import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, inspect, structs

from broker.support import text_lines, texts

AtLeastOne = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]

S = TypeVar("S", bound=msgspec.Struct)

type_info = functools.lru_cache(maxsize=None)(inspect.type_info)
"""Returns what msgspec knows of a type. To find that out takes it a while."""

OVERRIDDEN: Final = -1
"""Stands for the line of a value that an option has set."""

MOST: Final = 20
"""How many mistakes of a file are told. A stranger's message may have any number."""

_SHOWN: Final = 200

_CLOSE: Final = 0.75
"""Similarity (difflib's ratio) from which a misspelt key surely means another one."""

# msgspec gives the path only in the text of its error: "<reason> - at `$.cohort.clients`".
_AT: Final = re.compile(r" - at `\$[^`]*`$")


class Mistake(NamedTuple):
    """What is wrong with a file.

    Attributes:
        field: path of the field, such as `cohort.clients`; empty for the whole file.
        value: the value in the file; None: there is no value to show.
        allowed: what is allowed instead.
        line: the field's line, from 1; 0: not known; `OVERRIDDEN`: an option set it.
    """

    field: str
    value: object
    allowed: str
    line: int = 0

    @property
    def shown(self) -> str:
        """The value as a text of at most a few lines."""
        try:
            text = repr(self.value)
        except ValueError:
            # Python refuses to write an integer of more than 4300 digits.
            return "a number of thousands of digits"
        return texts.shortened(text, _SHOWN)

    def __str__(self) -> str:
        if not self.field:
            return self.allowed
        # A stranger's job may have a key of a megabyte.
        field = texts.shortened(self.field, _SHOWN)
        return f"{field}: {self.allowed}" if self.value is None else f"{field} = {self.shown}: {self.allowed}"


class Invalid(ValueError):
    """Raised when data does not match its schema.

    Attributes:
        mistakes: the mistakes, in the order of the data; at most `MOST`.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(map(str, self.mistakes)))


def in_file(file: str, mistakes: Sequence[Mistake]) -> str:
    """Return the mistakes of a file for people: a line for each, as `FILE:LINE: FIELD = VALUE: ...`.

    Args:
        file: the file's name.
        mistakes: its mistakes. Those with the line `OVERRIDDEN` are no line of the file.
    """
    places = {OVERRIDDEN: "--set", 0: file}
    lines = [f"{places.get(each.line, f'{file}:{each.line}')}: {each}" for each in mistakes]
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} mistakes" + (", or more" if len(lines) >= MOST else ""), *lines])


def is_named(field: str, mistakes: Iterable[Mistake]) -> bool:
    """Whether a field is that of a mistake, or one of them holds the other.

    Args:
        field: the field.
        mistakes: the mistakes.
    """
    pairs = itertools.chain.from_iterable(itertools.permutations((field, each.field)) for each in mistakes)
    return any(inner == outer or inner.startswith((f"{outer}.", f"{outer}[")) for inner, outer in pairs)


def in_order(mistakes: Iterable[Mistake], lines: Mapping[str, int]) -> list[Mistake]:
    """Return mistakes with their lines, in the order of these.

    Args:
        mistakes: the mistakes.
        lines: the lines of the file's fields, as `text_lines.find_lines` returns them.
    """
    located = [each._replace(line=each.line or text_lines.line_of(each.field, lines)) for each in mistakes]
    return sorted(located, key=lambda each: each.line)


def fields_of(struct: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """Yield the name of each field as files and messages have it, and its value."""
    for name, encoded in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True):
        yield encoded, getattr(struct, name)


def strict(raw: object, schema: type[S]) -> S:
    """Convert decoded TOML or JSON to a struct; unknown keys are errors.

    A number without a fraction is a whole number, however it is written: in JSON, 2 and 2.0 are the same (RFC 8259).

    Args:
        raw: the decoded data: tables, lists and plain values.
        schema: the struct to return.

    Raises:
        Invalid: the data has unknown keys, or values that are not allowed.
    """
    raw = with_whole_numbers(raw, schema)
    if mistakes := tuple(itertools.islice(_mistakes(raw, schema, ""), MOST)):
        raise Invalid(mistakes)
    return msgspec.convert(raw, schema)


def with_whole_numbers(raw: object, kind: Any) -> Any:
    """Return a value with integers for the floats that stand where only whole numbers are allowed.

    Args:
        raw: the value.
        kind: its type, as Python writes it.
    """
    plain = _plain(kind)
    match type_info(plain):
        case inspect.IntType() if isinstance(raw, float) and raw.is_integer():
            return int(raw)
        case inspect.StructType() as table if isinstance(raw, Mapping):
            types = {field.encode_name: field.type for field in structs.fields(table.cls)}
            return {key: with_whole_numbers(raw[key], types.get(key, Any)) for key in raw}
        case inspect.DictType() if isinstance(raw, Mapping) and get_args(plain):
            return {key: with_whole_numbers(raw[key], get_args(plain)[1]) for key in raw}
        case inspect.VarTupleType() | inspect.ListType() if isinstance(raw, list | tuple) and get_args(plain):
            return [with_whole_numbers(value, get_args(plain)[0]) for value in raw]
        case inspect.UnionType() as union if _tag_field(union) and isinstance(raw, Mapping):
            return with_whole_numbers(raw, _chosen(union, raw) or Any)
        case inspect.UnionType(types=types) if not any(isinstance(part, inspect.FloatType) for part in types):
            for part in get_args(plain):
                raw = with_whole_numbers(raw, part)
    return raw


def struct_of(raw: object, kind: Any) -> type[msgspec.Struct] | None:
    """Return the struct that a table is read as; None: the type has none for it.

    Args:
        raw: the table.
        kind: its type, as Python writes it.
    """
    match type_info(_plain(kind)):
        case inspect.StructType(cls=cls):
            return cls
        case inspect.UnionType() as union if _tag_field(union) and isinstance(raw, Mapping):
            return _chosen(union, raw)
        case _:
            return None


def _plain(kind: Any) -> Any:
    """Return a type without its constraints."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _mistakes(raw: object, kind: Any, path: str) -> Iterator[Mistake]:
    """Yield what is wrong with a value.

    Args:
        raw: the value.
        kind: its type, as Python writes it.
        path: path of the value.
    """
    is_wrong = False
    for mistake in _mistakes_inside(raw, kind, path):
        is_wrong = True
        yield mistake
    if is_wrong:
        return
    try:
        msgspec.convert(raw, kind)
    except msgspec.ValidationError as exc:
        description = _describe(type_info(kind))
        reason = _AT.sub("", str(exc))
        yield Mistake(path, raw, f"expected {description}" if description else reason[:1].lower() + reason[1:])


def _mistakes_inside(raw: object, kind: Any, path: str) -> Iterator[Mistake]:
    """Yield what is wrong with the parts of a table or list."""
    plain = _plain(kind)
    match type_info(plain):
        case inspect.StructType() as table if isinstance(raw, Mapping):
            yield from _mistakes_of_table(raw, table, path)
        case inspect.DictType() if isinstance(raw, Mapping) and get_args(plain):
            for key, value in raw.items():
                yield from _mistakes(value, get_args(plain)[1], text_lines.joined(path, f"{key}"))
        case inspect.VarTupleType() | inspect.ListType() if isinstance(raw, list | tuple) and get_args(plain):
            for i, value in enumerate(raw):
                yield from _mistakes(value, get_args(plain)[0], f"{path}[{i}]")
        case inspect.UnionType() as union if _tag_field(union) and isinstance(raw, Mapping):
            chosen = _chosen(union, raw)
            yield from _wrong_tag(raw, union, path) if chosen is None else _mistakes(raw, chosen, path)
        case inspect.UnionType() if isinstance(raw, Mapping | list | tuple):
            for part in get_args(plain):
                yield from _mistakes_inside(raw, part, path)
        case _:
            pass


def _mistakes_of_table(raw: Mapping[Any, Any], table: inspect.StructType, path: str) -> Iterator[Mistake]:
    known = _fields_of(table)
    of = f" for {table.tag!r}" if table.tag_field else ""
    yield from (_unknown_key(f"{key}", raw[key], list(known), path, of) for key in raw if key not in known)
    for field in structs.fields(table.cls):
        at = text_lines.joined(path, field.encode_name)
        if field.encode_name in raw:
            yield from _mistakes(raw[field.encode_name], field.type, at)
        elif field.required:
            description = _describe(type_info(field.type))
            yield Mistake(at, None, f"missing; expected {description}" if description else "missing")


def _fields_of(kind: inspect.StructType) -> dict[str, inspect.Type]:
    tag = {kind.tag_field: inspect.AnyType()} if kind.tag_field else {}
    return {**tag, **{field.encode_name: field.type for field in kind.fields}}


def _unknown_key(name: str, value: object, known: list[str], path: str, of: str = "") -> Mistake:
    close = difflib.get_close_matches(name, known, 1)
    remedy = f"did you mean {close[0]!r}?" if close else ""
    if not difflib.get_close_matches(name, known, 1, _CLOSE):
        remedy = f"{remedy} known{of} are {', '.join(known)}".strip()
    return Mistake(text_lines.joined(path, name), value, f"no such key; {remedy}")


def _tag_field(kind: inspect.UnionType) -> str:
    """Return the key whose value says which of a union's types a table has; empty: there is no such key."""
    return next((part.tag_field for part in kind.types if isinstance(part, inspect.StructType) and part.tag_field), "")


def _chosen(kind: inspect.UnionType, raw: Mapping[Any, Any]) -> type[msgspec.Struct] | None:
    """Return the type of a union that a table's tag chooses; None: it chooses none."""
    tables = (part for part in kind.types if isinstance(part, inspect.StructType))
    return next((part.cls for part in tables if part.tag_field is None or part.tag == raw.get(part.tag_field)), None)


def _wrong_tag(raw: Mapping[Any, Any], kind: inspect.UnionType, path: str) -> Iterator[Mistake]:
    """Yield why a table's tag chooses none of a union's types. A key that may be the misspelt tag comes first."""
    tag, tables = _tag_field(kind), [part for part in kind.types if isinstance(part, inspect.StructType)]
    if tag not in raw:
        known = list(dict.fromkeys(key for part in tables for key in _fields_of(part)))
        yield from (_unknown_key(f"{key}", raw[key], known, path) for key in raw if key not in known)
    choices = "expected one of " + ", ".join(repr(part.tag) for part in tables)
    yield Mistake(text_lines.joined(path, tag), raw.get(tag), choices if tag in raw else f"missing; {choices}")


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
