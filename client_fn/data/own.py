"""The user's own data, read whole so that it can be split among clients: arrays, tables and folders of images."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from client_fn.data import formats, shards
from client_fn.errors import DataMissing
from client_fn.training import arrays
from client_fn.training.classes import class_numbers, images_in
from client_fn.training.tables import Wanted

Array = NDArray[Any]
Indices = NDArray[np.int64]

_BEGINNING: Final = 9
_TABLES: Final = ("csv", "parquet")


class OwnData(Protocol):
    """Samples that can be split.

    Attributes:
        labels: names of the classes in the order of their numbers; empty: the labels are no texts.
        folder_labels: `data.labels` that the shards need; empty: they hold numbers.
        has_float_targets: whether y holds floats.
    """

    labels: tuple[str, ...]
    folder_labels: tuple[str, ...]
    has_float_targets: bool

    def __len__(self) -> int:
        """Return the number of samples."""

    def describe(self) -> str:
        """Return names, dtypes and shapes of the samples."""

    def classes(self) -> Array:
        """Return each sample's label as int64 (N,).

        Raises:
            BadData: there are no such labels.
        """

    def groups(self, column: str) -> Array:
        """Return each sample's value of a column (N,).

        Raises:
            BadData: there is no such column.
        """

    def write(self, folder: str, client: str, indices: Indices) -> str:
        """Write some samples as a client's shard, and return its URL.

        Raises:
            BadData: it can't be written.
        """


class ArrayData:
    """Named arrays (N, ...), written as safetensors files. Implements `OwnData`.

    Args:
        named: the samples.
        groups: columns that are no samples, by name.
        labels: names of the classes, if `y` held texts.
        where: for messages.

    Raises:
        BadData: the arrays have different lengths, or an array holds no numbers.
    """

    def __init__(
        self, named: Mapping[str, Array], *, groups: Mapping[str, Array], labels: Sequence[str], where: str
    ) -> None:
        self._wanted = Wanted(where)
        arrays.check({**named, **groups}, self._wanted)
        self.named = {name: _as_label(array) if name == "y" else array for name, array in named.items()}
        self._groups = groups
        self.labels = tuple(labels)
        self.folder_labels: tuple[str, ...] = ()
        self.has_float_targets = "y" in self.named and self.named["y"].dtype.kind == "f"

    def __len__(self) -> int:
        return len(next(iter(self.named.values())))

    def describe(self) -> str:
        """Implements `OwnData.describe`."""
        return "; ".join(
            f"{name}: {array.dtype} ({', '.join(['N', *map(str, array.shape[1:])])})"
            for name, array in sorted(self.named.items())
        )

    def classes(self) -> Array:
        """Implements `OwnData.classes`."""
        y = self.named.get("y")
        if y is None or y.dtype.kind not in "iub" or y.ndim != 1:
            what = "there is no y" if y is None else f"y is {y.dtype} of shape {y.shape}"
            raise self._wanted.bad(
                f"labels that are whole numbers (N,) are needed for this partition, but {what}: use the partition iid"
            )
        return y.astype(np.int64)

    def groups(self, column: str) -> Array:
        """Implements `OwnData.groups`."""
        groups = {**self.named, **self._groups}.get(column)
        if groups is None or groups.ndim != 1:
            raise self._wanted.bad(f"it has no column {column!r} with one value for each sample")
        return groups

    def write(self, folder: str, client: str, indices: Indices) -> str:
        """Implements `OwnData.write`."""
        url = shards.shard_url(folder, client)
        shards.write_tensors(url, {name: array[indices] for name, array in self.named.items()})
        return url


class ImageData:
    """A folder of images, `<class>/<file>`, written as such folders. Implements `OwnData`.

    Args:
        folder: the folder.
        labels: names of the classes; empty: all names of its folders.

    Raises:
        BadData: it is no such folder.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._wanted = Wanted(str(folder))
        names = labels or sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
        # Numbers stay the labels that they are.
        self.labels = () if all(name.isdecimal() for name in names) else tuple(names)
        self.folder_labels = self.labels
        self.has_float_targets = False
        numbers = class_numbers(folder, self.labels, self._wanted)
        found = [(file, number) for name, number in numbers.items() for file in images_in(folder / name, self._wanted)]
        if not found:
            raise self._wanted.bad("its folders hold no images")
        self._files = [file for file, _ in found]
        self._classes = np.array([number for _, number in found], np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def describe(self) -> str:
        """Implements `OwnData.describe`."""
        return "x: float32 (N, channels, height, width); y: int64 (N)"

    def classes(self) -> Array:
        """Implements `OwnData.classes`."""
        return self._classes

    def groups(self, column: str) -> Array:
        """Implements `OwnData.groups`."""
        raise self._wanted.bad(f"a folder of images has no column {column!r}")

    def write(self, folder: str, client: str, indices: Indices) -> str:
        """Implements `OwnData.write`."""
        if "://" in folder and not folder.startswith("file://"):
            raise self._wanted.bad("folders of images are written to this machine only: give --to a folder")
        target = (Path(folder.removeprefix("file://")) / client).resolve()
        wanted = {target / self._files[index].parent.name / self._files[index].name: index for index in indices}
        if target.exists():
            found = {file: file.stat().st_size for file in target.rglob("*") if file.is_file()}
            if found == {file: self._files[index].stat().st_size for file, index in wanted.items()}:
                return f"file://{target}"
            raise self._wanted.bad(f"{target} holds other files already: delete it, or choose another folder")
        for file, index in wanted.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._files[index], file)
        return f"file://{target}"


def read(
    place: Path, *, target: str = "", drop: Sequence[str] = (), labels: Sequence[str] = (), by: str = "", form: str = ""
) -> OwnData:
    """Return the samples in a file or folder.

    Texts as labels become numbers: positions in `labels`, or in the sorted list of all labels.

    Args:
        place: a safetensors, .npz, CSV or Parquet file, or a folder of images.
        target: the column that is predicted, in a table.
        drop: a table's columns that are left out.
        labels: names of the classes; empty: all that are there.
        by: a column that says which samples belong together; it is no feature.
        form: the format; empty: that of the ending or the first bytes.

    Raises:
        DataMissing: nothing lies there.
        BadData: it can't be read, or its content can't be used.
    """
    if place.is_dir():
        return ImageData(place, labels)
    if not place.is_file():
        raise DataMissing(place.name, str(place.parent), "give the path of a file or of a folder of images")
    with place.open("rb") as file:
        format_ = form or formats.recognise(str(place), file.read(_BEGINNING))
    wanted = Wanted(str(place), target, drop) if format_ in _TABLES else Wanted(str(place))
    named, groups = _read(place, format_, wanted, by)
    return of_arrays(named, labels=labels, groups=groups, wanted=wanted)


def of_arrays(
    named: Mapping[str, Array],
    *,
    labels: Sequence[str] = (),
    groups: Mapping[str, Array] | None = None,
    wanted: Wanted | None = None,
) -> ArrayData:
    """Return named arrays as data. Texts as labels `y` become numbers.

    Args:
        named: arrays (N, ...).
        labels: names of the classes in the order of their numbers; empty: the sorted list of those that are there.
        groups: columns that are no samples.
        wanted: names the data in messages; None: they are arrays of a program.

    Raises:
        BadData: the arrays have different lengths, or an array holds no numbers.
    """
    wanted, y = wanted or Wanted("in memory"), named.get("y")
    names: Sequence[str] = ()
    if y is not None and y.dtype.kind == "O":
        y = np.array(y.tolist())  # pandas has texts as objects
    if y is not None and y.dtype.kind == "U":
        names = labels or [str(name) for name in np.unique(y)]
        y = arrays.to_numbers(y, names, wanted)
    named = dict(named) if y is None else {**named, "y": y}
    if others := [name for name, array in named.items() if array.dtype.kind not in arrays.NUMBERS]:
        raise wanted.bad(f"{others[0]} holds no numbers but {named[others[0]].dtype}")
    return ArrayData(named, groups=groups or {}, labels=names, where=wanted.where)


def _read(place: Path, format_: str, wanted: Wanted, by: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the samples in a file, and apart from them the column that splits them."""
    if format_ == formats.SAFETENSORS:
        try:
            named: dict[str, Array] = dict(safetensors.numpy.load_file(place))
        except (SafetensorError, OSError, TypeError, KeyError) as exc:
            raise wanted.bad("it is no safetensors file that numpy can read") from exc
    elif format_ in {"npz", *_TABLES}:
        with place.open("rb") as file:
            named = arrays.read(format_, file, wanted._replace(text=by))
    else:
        raise wanted.bad("its format is not known: name it .safetensors, .npz, .csv or .parquet, or give --format")
    groups = {by: named.pop(by)} if by and by in named and by not in {"y", wanted.target} else {}
    return (arrays.to_samples(named, wanted) if format_ in _TABLES else named), groups


def _as_label(y: Array) -> Array:
    """Return y with whole numbers as int64, as loss functions want labels."""
    return y.astype(np.int64) if y.dtype.kind in "iu" and y.ndim == 1 else y
