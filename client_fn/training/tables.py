"""Reads CSV and Parquet files as columns of numbers. It needs only numpy, and pyarrow for Parquet."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from client_fn.errors import BadData

Column = NDArray[Any]

ROWS = 20_000
"""Rows that are converted at once: as texts they need ten times the memory of the numbers."""

CELL_BYTES = 1 << 20
"""Longest cell of a CSV file."""

_SEPARATORS = ",;\t"

_NO_PARQUET = "it is no Parquet file that can be read"
_NO_NUMBERS = "leave it out with data.drop, write numbers, or read it in a learner's data(source)"
_NO_VALUE = "fill it in, remove the row, or leave the column out with data.drop"


class Wanted(NamedTuple):
    """What is read of a table, and its name for messages.

    Attributes:
        where: path or URL, without secrets.
        target: the column that is predicted, which may hold texts; empty: none.
        drop: the columns that are left out.
        text: another column that may hold texts; empty: none.
    """

    where: str
    target: str = ""
    drop: Sequence[str] = ()
    text: str = ""

    def bad(self, reason: str, *, column: str = "", content: str = "") -> BadData:
        """Return an error about the table.

        Args:
            reason: what is wrong and what to do, without text of the file.
            column: name of the column that is concerned.
            content: other names from the file.
        """
        content = content or (f"the column is {column!r}" if column and column != self.target else "")
        return BadData(f"shard {self.where}: {reason}", where=self.where, reason=reason, content=content)

    def numbers_of(self, names: Sequence[str]) -> list[int]:
        """Return the positions of the columns that are read.

        Raises:
            BadData: a name is empty or stands twice, or a wanted column is missing.
        """
        columns = f"the columns are {', '.join(names)}"
        if not all(names) or len({*names}) < len(names):
            raise self.bad("each column needs a name of its own, in the first line", content=columns)
        for field, wanted in (("data.target", [self.target] if self.target else []), ("data.drop", self.drop)):
            if missing := [name for name in wanted if name not in names]:
                raise self.bad(f"it has no column {missing[0]!r}, which {field} names", content=columns)
        if self.target in self.drop:
            raise self.bad(f"column {self.target!r} can't be data.target and in data.drop")
        return [number for number, name in enumerate(names) if name not in self.drop]


def read_csv(file: IO[bytes], wanted: Wanted) -> dict[str, Column]:
    """Return the columns of a CSV file by name: int64, float64, or texts where those are allowed.

    The first line has the names. Cells are separated by commas, semicolons or tabs, in UTF-8.

    Args:
        file: the file.
        wanted: what is read of it.

    Raises:
        BadData: a cell is missing or no number, a line has another number of cells, or there are no lines.
    """
    with opened_csv(file, wanted) as (names, chunks):
        numbers = wanted.numbers_of(names)
        parts = [_columns(chunk, begin, names, numbers, wanted) for begin, chunk in chunks]
    if not parts:
        raise wanted.bad("it is empty: it has no rows below the names of the columns")
    columns = {names[number]: to_numbers(np.concatenate([part[number] for part in parts])) for number in numbers}
    if wanted.target:
        _check_finite(columns[wanted.target], names.index(wanted.target), 1, names, wanted)
    return columns


@contextlib.contextmanager
def opened_csv(file: IO[bytes], wanted: Wanted) -> Iterator[tuple[list[str], Iterator[tuple[int, list[list[str]]]]]]:
    """Open a CSV file for a block: the names in its first line, and some rows at a time with the first one's number.

    Args:
        file: the file.
        wanted: names it in messages.

    Raises:
        BadData: it is no CSV file, or a line has another number of cells.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        first = text.readline()
        separator = max(_SEPARATORS, key=first.count)
        names = next(csv.reader([first], delimiter=separator), [])
        if not names:
            raise wanted.bad("it is empty; the first line must name the columns")
        csv.field_size_limit(CELL_BYTES)
        yield names, _chunks(csv.reader(text, delimiter=separator), len(names), wanted)
    except UnicodeDecodeError as exc:
        raise wanted.bad("it is no text in UTF-8") from exc
    except csv.Error as exc:
        raise wanted.bad("it is no CSV file") from exc
    finally:
        text.detach()


def read_parquet(file: IO[bytes], wanted: Wanted) -> dict[str, Column]:
    """Return the columns of a Parquet file by name: int64, float64, or texts where those are allowed.

    Args:
        file: the file.
        wanted: what is read of it.

    Raises:
        BadData: pyarrow is not installed, it is no Parquet file, a cell is missing, or a column has no numbers.
    """
    opened = opened_parquet(file, wanted)
    import pyarrow as pa

    try:
        names = list(opened.schema_arrow.names)
        kept = [names[number] for number in wanted.numbers_of(names)]
        table = opened.read(columns=kept, use_threads=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as exc:
        raise wanted.bad(_NO_PARQUET) from exc
    if not table.num_rows:
        raise wanted.bad("it is empty: it has no rows")
    return {name: _of_arrow(table.column(name), names.index(name), name, wanted) for name in kept}


def opened_parquet(file: IO[bytes], wanted: Wanted) -> Any:
    """Return an opened `pyarrow.parquet.ParquetFile`.

    Args:
        file: the file.
        wanted: names it in messages.

    Raises:
        BadData: pyarrow is not installed, or it is no Parquet file.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as exc:
        raise wanted.bad("this Python can't read Parquet files: install pyarrow") from exc
    try:
        return parquet.ParquetFile(file)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as exc:
        raise wanted.bad(_NO_PARQUET) from exc


def arrow_dtype(kind: Any) -> str:
    """Return the dtype of a Parquet file's column: numpy's name of it, `text`, or Arrow's name.

    Args:
        kind: a `pyarrow.DataType`.
    """
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return str(np.dtype(kind.to_pandas_dtype()))
    # The text of a nested type would hold names of its fields.
    return "nested" if types.is_nested(kind) else str(kind)


def _chunks(rows: Iterator[list[str]], width: int, wanted: Wanted) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield some rows at a time with the number of the first one. Empty lines are no rows."""
    number = 1
    filled = (row for row in rows if row)
    while chunk := list(islice(filled, ROWS)):
        for place, row in enumerate(chunk, number):
            if len(row) != width:
                raise wanted.bad(f"row {place} has {len(row)} cells, but there are {width} columns")
        yield number, chunk
        number += len(chunk)


def _columns(
    rows: list[list[str]], begin: int, names: Sequence[str], numbers: Sequence[int], wanted: Wanted
) -> dict[int, Column]:
    """Return some rows' columns by position. The target stays text, because its other rows may be no numbers."""
    columns: dict[int, Column] = {}
    for number in numbers:
        cells = [row[number].strip() for row in rows]
        if "" in cells:
            raise wanted.bad(_no_value(number, begin + cells.index(""), names, wanted), column=names[number])
        columns[number] = np.array(cells)
        if names[number] not in {wanted.target, wanted.text}:
            columns[number] = to_numbers(columns[number])
            if columns[number].dtype.kind == "U":
                row = begin + next(i for i, cell in enumerate(cells) if to_numbers(np.array([cell])).dtype.kind == "U")
                reason = f"column {number + 1} holds a text in row {row}: {_NO_NUMBERS}"
                raise wanted.bad(reason, column=names[number])
            _check_finite(columns[number], number, begin, names, wanted)
    return columns


def to_numbers(column: Column) -> Column:
    """Return texts as int64 or float64, or as they are if one of them is no number."""
    if column.dtype.kind != "U":
        return column
    for dtype in (np.int64, np.float64):
        try:
            return column.astype(dtype)
        except (ValueError, OverflowError):
            continue
    return column


def _of_arrow(column: Any, number: int, name: str, wanted: Wanted) -> Column:
    """Return a column of a Parquet file."""
    import pyarrow as pa
    from pyarrow import types

    if column.null_count:
        row = column.is_null().to_pylist().index(True) + 1
        raise wanted.bad(_no_value(number, row, [name] * (number + 1), wanted), column=name)
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_boolean(kind) or types.is_integer(kind):
        return np.asarray(column.cast(pa.int64()).to_numpy())
    if types.is_floating(kind):
        values = np.asarray(column.to_numpy()).astype(np.float64)
        _check_finite(values, number, 1, [name] * (number + 1), wanted)
        return values
    if name in {wanted.target, wanted.text} and (types.is_string(kind) or types.is_large_string(kind)):
        return to_numbers(np.array(column.to_pylist()))
    raise wanted.bad(f"column {number + 1} holds no numbers but {kind}: {_NO_NUMBERS}", column=name)


def _check_finite(values: Column, number: int, begin: int, names: Sequence[str], wanted: Wanted) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = begin + int(np.flatnonzero(~np.isfinite(values))[0])
        raise wanted.bad(_no_value(number, row, names, wanted), column=names[number])


def _no_value(number: int, row: int, names: Sequence[str], wanted: Wanted) -> str:
    is_target = names[number] == wanted.target
    what = f"column {wanted.target!r}" if is_target else f"column {number + 1}"
    return f"{what} has no value in row {row}: {_NO_VALUE.partition(', or')[0] if is_target else _NO_VALUE}"
