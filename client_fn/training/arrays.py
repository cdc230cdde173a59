"""Named arrays of samples, from NumPy's files and from tables. It needs only numpy, so that staging uses it too."""

import zipfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from client_fn.training import tables
from client_fn.training.tables import Wanted

Array = NDArray[Any]

_TEXT = "U"
NUMBERS = "biufc"
"""Kinds of numpy's dtypes."""


def read(format_: str, file: IO[bytes], wanted: Wanted) -> dict[str, Array]:
    """Return the arrays, or columns, in a file by name.

    Args:
        format_: `npz`, `csv` or `parquet`.
        file: the file.
        wanted: which columns are read of a table.

    Raises:
        BadData: the file can't be read, or its content can't be used.
    """
    if format_ == "npz":
        return _read_npz(file, wanted)
    return tables.read_csv(file, wanted) if format_ == "csv" else tables.read_parquet(file, wanted)


def to_samples(columns: Mapping[str, Array], wanted: Wanted) -> dict[str, Array]:
    """Return a table's samples: x float32 (N, columns), and y (N,), the target: int64, float32 or texts.

    Args:
        columns: from `read`.
        wanted: names the target.

    Raises:
        BadData: no target is named, or it is the only column.
    """
    if not wanted.target:
        names = f"the columns are {', '.join(columns)}"
        raise wanted.bad("which column is predicted? name it as data.target", content=names)
    features = [column for name, column in columns.items() if name != wanted.target]
    if not features:
        raise wanted.bad(f"it has no column beside {wanted.target!r}, data.target")
    y = columns[wanted.target]
    x = np.empty((len(y), len(features)), np.float32)
    for number, feature in enumerate(features):
        x[:, number] = feature
    return {"x": x, "y": y.astype(np.float32) if y.dtype.kind == "f" else y}


def check(named: Mapping[str, Array], wanted: Wanted) -> None:
    """Check that arrays have the same number of samples, at least one.

    Args:
        named: the arrays.
        wanted: names the file.

    Raises:
        BadData: they have not.
    """
    if not named:
        raise wanted.bad("it holds no arrays")
    if scalars := [name for name, array in named.items() if not array.ndim]:
        reason = "an array has shape (); the first side of each array is the number of samples"
        raise wanted.bad(reason, content=f"it is {scalars[0]!r}")
    counts = {name: len(array) for name, array in named.items()}
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise wanted.bad("its arrays have different numbers of samples", content=lengths)
    if not next(iter(counts.values())):
        raise wanted.bad("it is empty: its arrays hold 0 samples")


def to_numbers(y: Array, labels: Sequence[str], wanted: Wanted) -> Array:
    """Return labels that are texts as int64: positions in the job's list of labels. Numbers stay as they are.

    Each client must give the same label the same number, so the list can't be made of one client's labels.

    Args:
        y: the labels (N,).
        labels: the job's `data.labels`.
        wanted: names the file and the column.

    Raises:
        BadData: there is no such list, or a label is not in it.
    """
    if y.dtype.kind != _TEXT:
        return y
    found, indices = np.unique(y, return_inverse=True)
    what = f"column {wanted.target!r}" if wanted.target else "y"
    some = f"found are {', '.join(map(str, found[:20]))}"
    if not labels:
        raise wanted.bad(
            f"{what} holds texts: list all of them as data.labels, so that each client gives them the same numbers",
            content=some,
        )
    numbers = {label: number for number, label in enumerate(labels)}
    if any(label not in numbers for label in found):
        raise wanted.bad(f"{what} holds labels that are not in data.labels", content=some)
    return np.array([numbers[label] for label in found], np.int64)[indices.reshape(y.shape)]


def _read_npz(file: IO[bytes], wanted: Wanted) -> dict[str, Array]:
    if not zipfile.is_zipfile(file):
        raise wanted.bad("it is no .npz file")
    file.seek(0)
    try:
        # Without pickle, which runs code that the file holds.
        with np.load(file, allow_pickle=False) as opened:
            named = {str(name): np.asarray(opened[name]) for name in opened}
    except ValueError as exc:
        reason = "it holds Python objects, which are not read: save arrays of numbers or texts"
        raise wanted.bad(reason if "pickle" in str(exc) else "it is no .npz file") from exc
    except (OSError, EOFError, zipfile.BadZipFile, AttributeError) as exc:
        raise wanted.bad("it is no .npz file") from exc
    for name, array in named.items():
        may_be_text = name in {"y", wanted.text} and array.dtype.kind == _TEXT
        if array.dtype.kind not in NUMBERS and not may_be_text:
            what = "y holds" if name == "y" else "an array holds"
            raise wanted.bad(f"{what} no numbers but {array.dtype}", content="" if name == "y" else f"it is {name!r}")
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in sorted(named.items())}
