"""A file that people write with some wrong values, as a struct: what is known of it can be checked further."""

import difflib
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeVar

import msgspec
from msgspec import structs
from msgspec.inspect import DictType, StructType, VarTupleType

from broker.support import validation

S = TypeVar("S", bound=msgspec.Struct)


class NotKnown(Exception):
    """Raised when a value is needed that the file has wrong."""


class Unknown:
    """Stands for a wrong value. Whoever looks at it, other than whether it is None, gets `NotKnown`."""

    def __repr__(self) -> str:
        return "a wrong value"


def _refuse(*_: object) -> NoReturn:
    raise NotKnown


for _name in (
    *("getattr", "bool", "hash", "str", "format", "len", "iter", "contains", "getitem", "call", "int", "float"),
    *("eq", "ne", "lt", "le", "gt", "ge", "neg", "abs", "round", "ceil", "floor"),
    *(f"{side}{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow") for side in ("", "r")),
):
    setattr(Unknown, f"__{_name}__", _refuse)

UNKNOWN: Final[Any] = Unknown()


def read(raw: object, schema: type[S]) -> S:
    """Return a struct whose wrong fields are `UNKNOWN`; so is all of it if the data is no table.

    Also a field is unknown that is not there while a similar one is, which surely means it.

    Args:
        raw: the decoded data, which `validation.strict` has refused.
        schema: the struct to return.
    """
    known: S = _part(validation.with_whole_numbers(raw, schema), schema)
    return known


def _part(raw: object, kind: Any) -> Any:
    """Return a value as its type has it; UNKNOWN: it is wrong.

    Args:
        raw: the value.
        kind: its type, as Python writes it.
    """
    table = validation.struct_of(raw, kind)
    if table is not None and isinstance(raw, Mapping):
        return _table(raw, table)
    # Of lists and tables of plain values all is wrong: whoever goes through them takes each for one of its type.
    match validation.type_info(kind):
        case DictType(value_type=StructType(cls=part)) if isinstance(raw, Mapping):
            return {key: _part(value, part) for key, value in raw.items()}
        case VarTupleType(item_type=StructType(cls=part)) if isinstance(raw, list | tuple):
            return tuple(_part(value, part) for value in raw)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError:
        return UNKNOWN


def _table(raw: Mapping[Any, Any], table: type[msgspec.Struct]) -> msgspec.Struct:
    fields = {field.encode_name: field for field in structs.fields(table)}
    meant = {name for key in raw if key not in fields for name in difflib.get_close_matches(f"{key}", fields, 1)}
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[field.name] = _part(raw[name], field.type)
        elif name in meant or field.required:
            values[field.name] = UNKNOWN
    return table(**values)
