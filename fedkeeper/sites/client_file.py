"""Reads a CSV file of clients, such as one row for each board, and compares it with the register. Does no other I/O."""

import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from broker.errors import BadTopic
from broker.messages.register import ClientRecord
from broker.support import texts
from broker.topics import checked_id
from fedkeeper.errors import BadOption
from fedkeeper.sites import data_places

COLUMNS: Final = ("client", "platform", "data_loc", "samples", "function", "state_loc")
"""The columns that a file may have, beside one for each label; it must have the first two."""

LABEL: Final = "label."
MISTAKES_SHOWN: Final = 10

_REQUIRED: Final = COLUMNS[:2]
_DELIMITERS: Final = ",;\t"  # programs for tables write others than commas in some countries
_SHOWN: Final = 80
_NOT_PRINTABLE: Final = "it has characters that can't be printed: remove them"
_SAMPLES: Final = re.compile(r"[0-9]{1,15}")

Kind = Literal["new", "changed", "same"]


class Change(NamedTuple):
    """What a file changes in the register.

    Attributes:
        record: the client's entry after the change.
        kind: whether the register has no entry of the client, another one or the same.
        fields: names of the fields that differ.
    """

    record: ClientRecord
    kind: Kind
    fields: tuple[str, ...] = ()


class _Row(NamedTuple):
    """A row: its last line, its cells by column, and how many cells are beyond the header's."""

    line: int
    cells: dict[str, str]
    excess: int


class _Mistake(NamedTuple):
    line: int
    column: str
    value: str
    remedy: str

    def __str__(self) -> str:
        about = f", {self.column} = {texts.shortened(self.value, _SHOWN)!r}" if self.column else ""
        return f"line {self.line}{about}: {self.remedy}"


class _Wrong(Exception):
    """Ends the reading of a file whose lines can't be told apart."""

    def __init__(self, mistake: _Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def read(path: Path) -> list[ClientRecord]:
    """Read a file of clients. Their data lies on other machines, so nobody looks at it.

    Args:
        path: a CSV file (RFC 4180) in UTF-8. Empty lines and lines that begin with `#` are left out.

    Raises:
        BadOption: the file can't be read, or has mistakes: all are named with their lines, at most ten.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise BadOption(f"--from {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise BadOption(f"--from {path}: byte {exc.start} is no UTF-8; save the table as CSV in UTF-8") from exc
    records, mistakes = parse(text)
    if mistakes:
        lines = [f"  {mistake}" for mistake in mistakes[:MISTAKES_SHOWN]]
        if len(mistakes) > MISTAKES_SHOWN:
            lines.append(f"  and {len(mistakes) - MISTAKES_SHOWN} more")
        raise BadOption("\n".join([f"--from {path}: nothing was registered", *lines]))
    return records


def parse(text: str) -> tuple[list[ClientRecord], list[str]]:
    """Return the clients of a file, and its mistakes, each as a sentence.

    Args:
        text: the file's text.
    """
    try:
        rows = list(_rows(text))
    except _Wrong as exc:
        return [], [str(exc)]
    mistakes = [*_repeated(rows)]
    records: list[ClientRecord] = []
    for row in rows:
        wrong = list(_mistakes(row))
        mistakes += wrong
        if not wrong:
            records.append(_record(row.cells))
    return records, [str(mistake) for mistake in sorted(mistakes)]


def _rows(text: str) -> Iterator[_Row]:
    """Yield the rows below the header, without those that are empty.

    Raises:
        _Wrong: the file is no CSV, has no rows, or its header has a mistake.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    header: list[str] = []
    is_empty = True
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped) or stripped[0].startswith("#"):
                continue
            if not header:
                header = _header(stripped, reader.line_num)
                continue
            is_empty, excess = False, len(cells) - len(header) if any(stripped[len(header) :]) else 0
            yield _Row(reader.line_num, dict(zip(header, stripped, strict=False)), excess)
    except csv.Error as exc:
        raise _Wrong(_Mistake(reader.line_num, "", "", f"this is no CSV: {exc}")) from exc
    if is_empty:
        raise _Wrong(_Mistake(reader.line_num, "", "", "the file has no row; the first line names the columns"))


def _delimiter(text: str) -> str:
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip('" ').startswith("#"))
    return max(_DELIMITERS, key=next(lines, "").count)


def _header(cells: Sequence[str], line: int) -> list[str]:
    """Return the names of the columns, written as fields are.

    Raises:
        _Wrong: a column is not known, is there twice, can't be printed, or is missing.
    """
    names = [cell if cell.startswith(LABEL) else cell.lower().replace("-", "_") for cell in cells]
    while names and not names[-1]:
        names.pop()
    for name, cell in zip(names, cells, strict=False):
        is_label = name.startswith(LABEL) and name != LABEL
        if not is_label and name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            known = ", ".join(COLUMNS)
            raise _Wrong(_Mistake(line, "column", cell, f"{hint}columns are {known} and {LABEL}NAME for each label"))
        if not name.isprintable():
            raise _Wrong(_Mistake(line, "column", cell, _NOT_PRINTABLE))
        if names.count(name) > 1:
            raise _Wrong(_Mistake(line, "column", cell, "it is there twice"))
    for name in _REQUIRED:
        if name not in names:
            raise _Wrong(_Mistake(line, "", "", f"the column {name!r} is missing; the first line names the columns"))
    return names


def _repeated(rows: Iterable[_Row]) -> Iterator[_Mistake]:
    first: dict[str, int] = {}
    for line, cells, _ in rows:
        name = cells["client"]
        if name in first:
            yield _Mistake(line, "client", name, f"line {first[name]} has this client too: give each an id of its own")
        elif name:
            first[name] = line


def _mistakes(row: _Row) -> Iterator[_Mistake]:
    """Yield what is wrong with a row's cells."""
    if row.excess:
        remedy = f"it has {row.excess} cells more than the header: put quotes around a cell that holds the delimiter"
        yield _Mistake(row.line, "", "", remedy)
        return
    for column, value in row.cells.items():
        if not value.isprintable():
            yield _Mistake(row.line, column, value, _NOT_PRINTABLE)
    for column in _REQUIRED:
        try:
            checked_id(row.cells.get(column, ""))
        except BadTopic as exc:
            yield _Mistake(row.line, column, row.cells.get(column, ""), exc.rule)
    for column in ("data_loc", "state_loc"):
        try:
            data_places.absolute(row.cells.get(column, ""), is_here=False)
        except BadOption:
            remedy = "it lies on another machine: give its absolute path there"
            yield _Mistake(row.line, column, row.cells[column], remedy)
    samples = row.cells.get("samples", "")
    if samples and not _SAMPLES.fullmatch(samples):
        yield _Mistake(row.line, "samples", samples, "write a whole number such as 360, or nothing if it is not known")


def _record(cells: Mapping[str, str]) -> ClientRecord:
    function = cells.get("function", "")
    return ClientRecord(
        id=cells["client"],
        platform=cells["platform"],
        function=function or cells["client"],
        url=function,
        data_loc=data_places.absolute(cells.get("data_loc", ""), is_here=False),
        labels={name.removeprefix(LABEL): value for name, value in cells.items() if name.startswith(LABEL) and value},
        samples=int(cells.get("samples") or 0),
        state_loc=data_places.absolute(cells.get("state_loc", ""), is_here=False),
    )


def compare(clients: Iterable[ClientRecord], register: Iterable[ClientRecord]) -> list[Change]:
    """Return what a file changes in the register, in the file's order.

    Args:
        clients: the clients of the file.
        register: the registered clients.
    """
    current = {record.id: record for record in register}
    return [_change(client, current.get(client.id)) for client in clients]


def _change(client: ClientRecord, current: ClientRecord | None) -> Change:
    if current is None:
        return Change(client, "new")
    # What a file does not say stays as it is, while it is about the same data and the same function.
    samples = client.samples or (current.samples if client.data_loc == current.data_loc else 0)
    is_same = (client.platform, client.function) == (current.platform, current.function)
    url = client.url or (current.url if is_same else "")
    kept = {"samples": samples, "url": url, "paused": current.paused, "secret": current.secret}
    record = msgspec.structs.replace(client, **kept)
    fields = tuple(name for name in record.__struct_fields__ if getattr(record, name) != getattr(current, name))
    return Change(record, "changed" if fields else "same", fields)
