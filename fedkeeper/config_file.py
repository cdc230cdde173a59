"""Reads configuration files that people write. Unknown keys and wrong values are told all at once, with their lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bridges.errors import BadSettings
from broker.support import tables, text_lines, validation
from broker.support.validation import Mistake
from fedkeeper.errors import BadConfigFile

StructT = TypeVar("StructT", bound=msgspec.Struct)


class ConfigFile:
    """A TOML file, or a JSON file with the same tables.

    Attributes:
        table: its content, not checked.
    """

    def __init__(self, path: Path) -> None:
        """Read a file.

        Args:
            path: the file.

        Raises:
            BadConfigFile: it can't be read, or is neither TOML nor JSON.
        """
        self._name = path.name
        try:
            self._text = tables.text_of(path.read_bytes())
            self.table: dict[str, Any] = tables.decode(self._text)
        except tables.NoTable as exc:
            raise BadConfigFile([exc.mistake], path.name) from exc
        except (OSError, ValueError) as exc:
            raise BadConfigFile([Mistake("", None, f"no file that can be read: {exc}")], path.name) from exc

    def convert(self, schema: type[StructT], *, without: Sequence[str] = ()) -> StructT:
        """Return the content as a struct.

        Args:
            schema: the struct's class; keys that it does not have are refused.
            without: keys that are not the struct's.

        Raises:
            BadConfigFile: keys are unknown, or values are not allowed.
        """
        try:
            return validation.strict({key: self.table[key] for key in self.table if key not in without}, schema)
        except validation.Invalid as exc:
            raise self.error(exc.mistakes) from exc
        except BadSettings as exc:
            raise self.error([Mistake(exc.field, exc.value, exc.reason)]) from exc

    def error(self, mistakes: Sequence[Mistake]) -> BadConfigFile:
        """Return the error for mistakes in this file; each gets its line."""
        return BadConfigFile(validation.in_order(mistakes, text_lines.find_lines(self._text)), self._name)


def read(path: Path, schema: type[StructT]) -> StructT:
    """Read a file as a struct.

    Args:
        path: the file.
        schema: the struct's class; keys that it does not have are refused.

    Raises:
        BadConfigFile: the file can't be read, keys are unknown, or values are not allowed.
    """
    return ConfigFile(path).convert(schema)
