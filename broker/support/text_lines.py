"""Finds the line of each value in the text of a TOML or JSON file, which the parsers of both do not tell."""

import re
import tomllib
from collections.abc import Mapping
from typing import Final

_BLANK: Final = re.compile(r"(?:\s|#[^\n]*)*")
_KEY: Final = re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\"|'[^'\n]*'|[A-Za-z0-9_-]+)\s*")
_TEXT: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?!")'
    r"|'''.*?'''(?!')"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^'\n]*'"
    r"|[^,\]}\n#]+",
    re.DOTALL,
)


def find_lines(text: str) -> dict[str, int]:
    """Return the line, from 1, of each table and value, by its path such as `cohort.clients` or `override[0].where`.

    Args:
        text: a valid TOML or JSON file. Of any other one, the lines up to its mistake are returned.
    """
    scanner = _Scanner(text)
    try:
        if text.lstrip().startswith("{"):
            scanner.read_value("")
        else:
            scanner.read_statements()
    except (_Unexpected, RecursionError):
        pass
    return scanner.lines


def line_of(field: str, lines: Mapping[str, int]) -> int:
    """Return the line of a field, or else of the innermost table around it that has one; 0: there is none.

    Args:
        field: the field's path.
        lines: what `find_lines` returns.
    """
    while field and field not in lines:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return lines.get(field, 0)


class _Unexpected(Exception):
    """Ends the reading of a text that is neither TOML nor JSON."""


class _Scanner:
    """Reads a valid text. The grammars are TOML 1.0 (toml.io) and JSON (RFC 8259), without what parsers have checked.

    Attributes:
        lines: the lines of what was read, by path.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[str, int] = {}
        self._text = text
        self._at = 0
        self._counted = (0, 1)
        self._sizes: dict[str, int] = {}

    def read_statements(self) -> None:
        """Read a TOML file: headers of tables, and their keys."""
        table = ""
        while not self._is_at_end():
            if self._skip("[["):
                table = self._header(is_array=True)
            elif self._skip("["):
                table = self._header(is_array=False)
            else:
                self._read_pair(table)

    def read_value(self, path: str) -> None:
        """Read a value, which may be a table or a list."""
        if self._skip("{"):
            while not self._skip("}"):
                self._read_pair(path)
                self._skip(",")
        elif self._skip("["):
            size = 0
            while not self._skip("]"):
                self._note(f"{path}[{size}]")
                self.read_value(f"{path}[{size}]")
                self._skip(",")
                size += 1
        else:
            self._match(_TEXT)

    def _read_pair(self, table: str) -> None:
        path = table
        self._is_at_end()
        for key in self._keys():
            path = joined(path, key)
            self._note(path)
        if not (self._skip("=") or self._skip(":")):
            raise _Unexpected
        self.read_value(path)

    def _header(self, *, is_array: bool) -> str:
        """Read the rest of a table's header, and return the table's path."""
        path, *last = "", *self._keys()
        for i, key in enumerate(last):
            path = joined(path, key)
            if is_array and i == len(last) - 1:
                self._sizes[path] = self._sizes.get(path, 0) + 1
            self._note(path)
            if path in self._sizes:
                path = f"{path}[{self._sizes[path] - 1}]"
                self._note(path)
        if not self._skip("]]" if is_array else "]"):
            raise _Unexpected
        return path

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._skip("."):
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        written = self._match(_KEY).strip()
        return next(iter(tomllib.loads(f"{written} = 0"))) if written[0] in "\"'" else written

    def _note(self, path: str) -> None:
        seen, line = self._counted
        line += self._text.count("\n", seen, self._at)
        self._counted = self._at, line
        self.lines.setdefault(path, line)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None or not match[0]:
            raise _Unexpected
        self._at = match.end()
        return match[0]

    def _skip(self, sign: str) -> bool:
        """Skip blanks and comments, and then a sign if it is there; return whether it was."""
        if self._is_at_end() or not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _is_at_end(self) -> bool:
        """Skip blanks and comments; return whether nothing follows."""
        blank = _BLANK.match(self._text, self._at)
        self._at = self._at if blank is None else blank.end()
        return self._at == len(self._text)


def joined(path: str, key: str) -> str:
    """Return the path of a table's value.

    Args:
        path: the table's path; empty: it is the whole file.
        key: the value's key.
    """
    return f"{path}.{key}" if path else key
