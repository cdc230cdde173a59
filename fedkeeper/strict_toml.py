"""Reads TOML files that people write. An unknown key or a wrong value is an error that names the field."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from broker.errors import UNREADABLE
from broker.support import validation
from fedkeeper.errors import BadConfigFile

StructT = TypeVar("StructT", bound=msgspec.Struct)


def read(path: Path, schema: type[StructT]) -> StructT:
    """Read a TOML file as a struct.

    Args:
        path: the file.
        schema: the struct's class; keys that it does not have are refused.

    Raises:
        BadConfigFile: the file can't be read, has an unknown key, or a value is not allowed.
    """
    return convert(read_table(path), schema)


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file as a dict, without checks.

    Raises:
        BadConfigFile: the file can't be read, or is not TOML.
    """
    try:
        table: dict[str, Any] = msgspec.toml.decode(path.read_text(encoding="utf-8"))
    except (OSError, *UNREADABLE) as exc:
        raise BadConfigFile("", path.name, f"no TOML file that can be read: {exc}") from exc
    return table


def convert(table: dict[str, Any], schema: type[StructT]) -> StructT:
    """Convert a table to a struct.

    Args:
        table: decoded TOML.
        schema: the struct's class; keys that it does not have are refused.

    Raises:
        BadConfigFile: the table has an unknown key, or a value is not allowed.
    """
    try:
        return validation.strict(table, schema)
    except validation.Invalid as exc:
        raise BadConfigFile(*exc.mistake) from exc
