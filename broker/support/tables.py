"""Decodes the text of files that people write: TOML, or JSON with the same tables."""

import codecs
import re
from typing import Any, Final

import msgspec

from broker.support.decoding import UNREADABLE
from broker.support.validation import Mistake

# Python's tomllib, and msgspec for JSON, tell where in their sentences.
_TOML_PLACE: Final = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_JSON_PLACE: Final = re.compile(r" \(byte (?P<byte>\d+)\)$")


class NoTable(ValueError):
    """Raised for a text that is neither TOML nor a JSON object.

    Attributes:
        mistake: where and why.
    """

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def text_of(content: bytes) -> str:
    """Return the text of a file's bytes: UTF-8, with or without the mark that editors on Windows write.

    Raises:
        UnicodeDecodeError: the bytes are not UTF-8.
    """
    return content.removeprefix(codecs.BOM_UTF8).decode()


def decode(text: str) -> dict[str, Any]:
    """Decode a text whose first sign tells its form: a JSON object begins with `{`, and no TOML file does.

    Raises:
        NoTable: it is neither.
    """
    return _decode_json(text) if text.lstrip().startswith("{") else _decode_toml(text)


def _decode_toml(text: str) -> dict[str, Any]:
    try:
        table: dict[str, Any] = msgspec.toml.decode(text)
    except UNREADABLE as exc:
        place = _TOML_PLACE.search(str(exc))
        reason = _TOML_PLACE.sub("", str(exc))
        if place is None:
            raise NoTable(Mistake("", None, f"not a TOML file: {reason}")) from exc
        if place["line"] is None:
            raise NoTable(Mistake("", None, f"not a TOML file: {reason}", text.rstrip().count("\n") + 1)) from exc
        reason += f" (column {place['column']})"
        raise NoTable(Mistake("", None, f"not a TOML file: {reason}", int(place["line"]))) from exc
    return table


def _decode_json(text: str) -> dict[str, Any]:
    try:
        table: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    except UNREADABLE as exc:
        place = _JSON_PLACE.search(str(exc))
        reason = _JSON_PLACE.sub("", str(exc)).removeprefix("JSON is malformed: ")
        end = len(text.rstrip().encode()) if place is None else int(place["byte"])
        line = text.encode()[:end].count(b"\n") + 1
        raise NoTable(Mistake("", None, f"not a JSON file: {reason}", line)) from exc
    return table
