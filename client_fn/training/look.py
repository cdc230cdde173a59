"""Looks at a client's data for a report: how many samples, which columns or tensors, of which dtypes. Never a value.

Torch computes nothing here, so that this may run in a copy of the trainer.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from client_fn.training import arrays, tables
from client_fn.training.images import ImageFolder
from client_fn.training.source import Source
from client_fn.training.tables import Wanted

MOST = 100
"""Most columns that are told."""

_KINDS = ("int64", "float64", "text")
"""dtypes of a CSV file's columns: each holds all values of those before it."""

_NO_NAMES = {"", "-", "?", "na", "n/a", "none", "null"}
"""What stands in place of a missing value, and is no name of a column."""

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
"""dtypes of safetensors files by numpy's and torch's names."""


class Column(NamedTuple):
    """A column or tensor.

    Attributes:
        name: its name.
        dtype: its dtype; `text` for texts.
        shape: its sides without the first one.
        missing: how many rows have no finite value.
    """

    name: str
    dtype: str
    shape: Sequence[int] = ()
    missing: int = 0


class Found(NamedTuple):
    """What lies there.

    Attributes:
        samples: number of samples or rows.
        columns: the first `MOST` columns or tensors.
        column_count: number of all of them.
        classes: number of different labels in `y`, or of folders of images; None: there are none.
        named: whether the names are certainly names, and no values.
    """

    samples: int
    columns: Sequence[Column]
    column_count: int
    classes: "int | None" = None
    named: bool = True


def look(source: Source, where: str, say: Callable[[str], None]) -> Found:
    """Return what a client's data is.

    Args:
        source: the data, of a known format.
        where: its path or URL for messages, without secrets.
        say: told `alive` from time to time.

    Raises:
        BadData: no job can use it.
    """
    wanted = Wanted(where)
    try:
        return _look(source, wanted, say)
    except MemoryError as exc:
        raise wanted.bad("it needs more memory than the trainer may use (FEDKEEPER_TRAINER_MEMORY_MB)") from exc


def _look(source: Source, wanted: Wanted, say: Callable[[str], None]) -> Found:
    if source.format == "folder":
        return _images(Path(source.path), wanted)
    if source.format == "safetensors":
        return _tensors(source.path, wanted)
    with source.open() as file:
        if source.format == "csv":
            return _csv(file, wanted, say)
        if source.format == "parquet":
            return _parquet(file, wanted)
        return _arrays(arrays.read("npz", file, wanted), wanted)


def _tensors(path: str, wanted: Wanted) -> Found:
    from safetensors import SafetensorError, safe_open

    columns = []
    labels: Any = None
    samples = 0
    try:
        with safe_open(path, "np") as file:
            names = sorted(file.keys())
            for name in names:
                part = file.get_slice(name)
                samples, *shape = part.get_shape()
                columns.append(Column(name, _DTYPES.get(part.get_dtype(), "?"), shape))
            if any(column.name == "y" and _is_label(column) for column in columns):
                labels = file.get_tensor("y")
    except (SafetensorError, OSError, ValueError) as exc:
        raise wanted.bad("it is no safetensors file") from exc
    return Found(samples, columns[:MOST], len(columns), _classes(labels))


def _arrays(named: Mapping[str, Any], wanted: Wanted) -> Found:
    arrays.check(named, wanted)
    columns = [
        Column(name, "text" if array.dtype.kind == "U" else str(array.dtype), array.shape[1:])
        for name, array in named.items()
    ]
    is_labelled = any(column.name == "y" and (_is_label(column) or column == Column("y", "text")) for column in columns)
    samples = len(next(iter(named.values())))
    return Found(samples, columns[:MOST], len(columns), _classes(named["y"]) if is_labelled else None)


def _is_label(column: Column) -> bool:
    return not column.shape and ("int" in column.dtype or column.dtype == "bool")


def _classes(labels: Any) -> "int | None":
    return None if labels is None else len(np.unique(labels))


def _csv(file: Any, wanted: Wanted, say: Callable[[str], None]) -> Found:
    """Look at each cell once. Unlike for a job, each column may hold texts and gaps."""
    kinds: list[int] = []
    missing: list[int] = []
    samples = 0
    with tables.opened_csv(file, wanted) as (names, chunks):
        wanted.numbers_of(names)
        kinds, missing = [0] * len(names), [0] * len(names)
        for _, rows in chunks:
            say("alive")
            samples += len(rows)
            for number in range(len(names)):
                cells = [cell for row in rows if (cell := row[number].strip())]
                column = tables.to_numbers(np.array(cells)) if cells else np.zeros(0, np.int64)
                kind = 2 if column.dtype.kind == "U" else int(column.dtype.kind == "f")
                kinds[number] = max(kinds[number], kind)
                gaps = int((~np.isfinite(column)).sum()) if kind == 1 else 0
                missing[number] += len(rows) - len(cells) + gaps
    if not samples:
        raise wanted.bad("it is empty: it has no rows below the names of the columns")
    columns = [Column(name, _KINDS[kinds[n]], (), missing[n]) for n, name in enumerate(names)]
    return Found(samples, columns[:MOST], len(columns), named=_are_names(columns))


def _are_names(columns: Sequence[Column]) -> bool:
    """Return whether a table's first line has names. A line of data has a number, or none, where the others have."""
    numeric = [column for column in columns if column.dtype != "text"]
    return bool(numeric) and not any(_may_be_value(column.name) for column in columns)


def _may_be_value(name: str) -> bool:
    text = name.strip().lower()
    return text in _NO_NAMES or tables.to_numbers(np.array([text])).dtype.kind != "U"


def _parquet(file: Any, wanted: Wanted) -> Found:
    opened = tables.opened_parquet(file, wanted)
    schema = opened.schema_arrow
    samples = opened.metadata.num_rows
    if not samples:
        raise wanted.bad("it is empty: it has no rows")
    shown = [Column(field.name, tables.arrow_dtype(field.type)) for field in list(schema)[:MOST]]
    return Found(samples, shown, len(schema))


def _images(folder: Path, wanted: Wanted) -> Found:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    images = ImageFolder(folder, names, wanted)
    first = images[0][0]
    columns = (Column("x", "float32", tuple(first.shape)), Column("y", "int64"))
    return Found(len(images), columns, 2, len(names))
