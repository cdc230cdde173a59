"""Tells what the fields of messages and files are and mean, from their types and docstrings."""

import inspect
import re
from collections.abc import Callable
from typing import Any, cast

import msgspec
from msgspec import inspect as types

Kind = type[msgspec.Struct]


def fields_of(kind: Kind) -> tuple[types.Field, ...]:
    """Return a type's fields."""
    return cast("types.StructType", types.type_info(kind)).fields


def default_of(field: types.Field | msgspec.structs.FieldInfo) -> Any:
    """Return the default of a field that is not required."""
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def summary_of(kind: Kind) -> str:
    """Return the first paragraph of a type's docstring."""
    return _docstring(kind)[0]


def meaning_of(kind: Kind, field: str) -> str:
    """Return the meaning of a field; empty: neither the type nor a base of it describes the field.

    Args:
        kind: the type.
        field: the field's name in files and messages.
    """
    attribute = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)).get(field, field)
    bases = (base for base in kind.__mro__ if issubclass(base, msgspec.Struct))
    return next(filter(None, (_docstring(base)[1].get(attribute) for base in bases)), "")


def _docstring(kind: Kind) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a class's docstring, and the meaning of each attribute."""
    text = inspect.cleandoc(kind.__doc__ or "")
    summary = " ".join(text.split("\n\n")[0].split())
    _, _, attributes = text.partition("\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return summary, {name: " ".join(meaning.split()).removesuffix(".") for name, meaning in entries}


def _name(kind: Kind) -> str:
    return kind.__name__


def shown(kind: types.Type, *, code: Callable[[str], str] = str, table: Callable[[Kind], str] = _name) -> str:
    """Return a type for people.

    Args:
        kind: the type.
        code: marks a value.
        table: returns the name of a type.
    """
    match kind:
        case types.StructType(cls=cls):
            return table(cls)
        case types.UnionType():
            return " or ".join(shown(part, code=code, table=table) for part in kind.types)
        case types.Metadata(type=inner):
            return shown(inner, code=code, table=table)
        case types.LiteralType():
            return ", ".join(code(f"{value}" or '""') for value in kind.values)
        case types.DictType():
            return f"table of {shown(kind.value_type, code=code, table=table)}"
        case types.VarTupleType() | types.ListType():
            return f"list of {shown(kind.item_type, code=code, table=table)}"
        case types.IntType() | types.FloatType():
            return ("whole number" if isinstance(kind, types.IntType) else "number") + _bounds(kind)
        case _:
            names = {types.StrType: "text", types.BoolType: "true or false", types.NoneType: "null"}
            return names.get(type(kind), "any")


def _bounds(kind: types.IntType | types.FloatType) -> str:
    limits = {"≥": kind.ge, ">": kind.gt, "≤": kind.le, "<": kind.lt}
    return "".join(f" {sign} {limit}" for sign, limit in limits.items() if limit is not None)
