"""What a client's data is, as its site sees it: names, sizes, shapes and rights, but no value of a sample.

`fedkeeper clients check` asks a bridge with a `Request` to `fl.fabric.<platform>.check`. The bridge of local workers
writes a `DataCheck` as one line to a worker, which answers with one `DataAnswer`.
"""

from typing import Final

import msgspec

COLUMNS: Final = 100
"""Most columns that a report names. It counts all of them."""

NAME_CHARACTERS: Final = 60
"""Longest name of a column in a report."""


class Column(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A column of a table, or a tensor.

    Attributes:
        name: its name; empty: it is not told, because it may be a value.
        dtype: as numpy or the file names it, such as `float32`; `text` for texts.
        shape: its sides without the first one, the number of samples.
        missing: how many rows of a table have no finite value there.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    missing: int = 0


class StatePlace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The folder where a client keeps its personal layers.

    Attributes:
        path: path or URL, without secrets.
        owner: user and group of the folder, or of the nearest one above it that exists; empty: not known.
        mode: its rights, as `ls -l` shows them.
        is_writable: whether the service may write there; None: that was not tried.
        problem: why it can't be used; empty: nothing is known against it.
        remedy: what to do.
    """

    path: str
    owner: str = ""
    mode: str = ""
    is_writable: bool | None = None
    problem: str = ""
    remedy: str = ""


class DataReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A client's data as its site sees it.

    Attributes:
        client: the client's id.
        path: path or URL of the data, without secrets.
        kind: its format: `safetensors`, `npz`, `csv`, `parquet`, `folder`, or `file`, any other file; empty: not known.
        bytes: its size; of a folder, of all its files together. None: not known.
        owner: user and group; empty: not known.
        mode: rights of the file or folder, as `ls -l` shows them.
        service: the user that the worker runs as.
        is_readable: whether that user can read it; None: not known.
        samples: number of samples, or of rows; None: not known.
        columns: the first 100 columns of a table, or tensors of a file.
        column_count: number of all columns or tensors.
        classes: number of different labels in `y`, or of folders of images; None: not known.
        error: class of the error that a job would fail with; empty: none is known.
        problem: that error as a sentence, without any text of the data unless the site reveals texts.
        remedy: what to do.
        note: what was not looked at, and why.
        state: where the client keeps its personal layers; None: it has no such place.
    """

    client: str
    path: str = ""
    kind: str = ""
    bytes: int | None = None
    owner: str = ""
    mode: str = ""
    service: str = ""
    is_readable: bool | None = None
    samples: int | None = None
    columns: tuple[Column, ...] = ()
    column_count: int = 0
    classes: int | None = None
    error: str = ""
    problem: str = ""
    remedy: str = ""
    note: str = ""
    state: StatePlace | None = None


class DataCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge's request to a worker to look at a client's data.

    Attributes:
        id: id of the request.
        client: the client's id.
        data_loc: path or URL of its data, as the register has it.
        state_loc: path or URL for its personal layers; empty: beside its data.
        limit_s: how long this may take, in seconds.
    """

    id: str
    client: str
    data_loc: str
    state_loc: str = ""
    limit_s: float = 60.0


class DataAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's answer to a `DataCheck`.

    Attributes:
        id: id of the request.
        report: what the worker has found.
    """

    id: str
    report: DataReport
