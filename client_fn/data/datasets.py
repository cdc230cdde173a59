"""The built-in datasets as arrays."""

import contextlib
import difflib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.support import installing
from client_fn.data import mnist
from client_fn.data.idx import Bytes
from client_fn.errors import DataMissing

NAMES: Final = ("digits", "mnist")

DIGITS: Final = 1797
DIGITS_TRAIN: Final = 1437
"""Four fifths of the digits."""

_REMEDY: Final = "set evaluation.data to a test set, or evaluation.every = 0, with evaluation.holdout if clients judge"

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images and labels of a dataset.

    Attributes:
        train_x: float32 (N, height, width), 0..1.
        train_y: int64 (N,), labels from 0.
        test_x: like `train_x`.
        test_y: like `train_y`.
    """

    train_x: Floats
    train_y: Labels
    test_x: Floats
    test_y: Labels


def load(name: str, *, data_dir: Path | None = None) -> Dataset:
    """Return a built-in dataset.

    `digits`: 1437 training and 360 test images of 8x8 that come with scikit-learn (a UCI dataset), split by a fixed
    permutation.
    `mnist`: 60,000 training and 10,000 test images of 28x28 (220 MB of memory).

    Args:
        name: one of `NAMES`.
        data_dir: folder with MNIST's files. None: `client_fn.data.mnist.folder` finds or downloads them.

    Raises:
        DataMissing: the name is unknown, or the dataset is not on this machine and can't be downloaded.
        BadData: a file has wrong content.
    """
    with _map_errors(name):
        if name == "digits":
            return _load_digits()
        path = mnist.folder(data_dir)
        train_x = _to_floats(mnist.read(path, mnist.TRAIN_IMAGES))
        train_y = _to_labels(mnist.read(path, mnist.TRAIN_LABELS))
        return Dataset(train_x, train_y, *_load_mnist_test(path))


def load_test(name: str, *, data_dir: Path | None = None) -> tuple[Floats, Labels]:
    """Return only a dataset's test images and labels. `mnist` takes 31 MB of memory then.

    Args:
        name: one of `NAMES`.
        data_dir: folder with MNIST's files. None: `client_fn.data.mnist.folder` finds or downloads them.

    Raises:
        DataMissing: the name is unknown, or the dataset is not on this machine and can't be downloaded.
        BadData: a file has wrong content.
    """
    with _map_errors(name):
        if name == "digits":
            digits = _load_digits()
            return digits.test_x, digits.test_y
        return _load_mnist_test(mnist.folder(data_dir))


def ensure(name: str, *, data_dir: Path | None = None, quiet: bool = False) -> None:
    """Download a built-in dataset unless it is on this machine. Other datasets exist only at the clients.

    Args:
        name: a dataset, built in or not.
        data_dir: folder with MNIST's files. None: `client_fn.data.mnist.folder` finds or downloads them.
        quiet: show no progress bar.

    Raises:
        DataMissing: the dataset can't be downloaded, or `data_dir` lacks a file.
    """
    if name == "mnist":
        mnist.folder(data_dir, quiet=quiet)


@contextlib.contextmanager
def _map_errors(name: str) -> Iterator[None]:
    """Raise DataMissing if the dataset is not built in, or if the package that reads it is not installed."""
    if name not in NAMES:
        similar = difflib.get_close_matches(name, NAMES, 1)
        remedy = f"did you mean {similar[0]!r}?" if similar else _REMEDY
        raise DataMissing(name, "fedkeeper", f"built in are {' and '.join(NAMES)}; {remedy}")
    try:
        yield
    except ModuleNotFoundError as exc:
        raise DataMissing(name, "this Python", f"{exc.name} is missing: {installing.remedy('train')}") from exc


def _load_digits() -> Dataset:
    rows = np.loadtxt(_digits_file(), delimiter=",")[np.random.default_rng(0).permutation(DIGITS)]
    x = (rows[:, :-1].reshape(-1, 8, 8) / 16).astype(np.float32)
    y = rows[:, -1].astype(np.int64)
    return Dataset(x[:DIGITS_TRAIN], y[:DIGITS_TRAIN], x[DIGITS_TRAIN:], y[DIGITS_TRAIN:])


def _digits_file() -> Path:
    """Return the file with the digits: lines of 64 pixels (0..16) and a label.

    Raises:
        ModuleNotFoundError: scikit-learn, which contains the file, is not installed, or no longer contains it.
    """
    # Not by `load_digits`: importing scikit-learn takes longer than the first round.
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder, "datasets", "data", "digits.csv.gz")).is_file():
            return file
    raise ModuleNotFoundError(name="scikit-learn")


def _load_mnist_test(path: Path) -> tuple[Floats, Labels]:
    return _to_floats(mnist.read(path, mnist.TEST_IMAGES)), _to_labels(mnist.read(path, mnist.TEST_LABELS))


def _to_floats(images: Bytes) -> Floats:
    return images.astype(np.float32) / np.float32(255)


def _to_labels(values: Bytes) -> Labels:
    return values.astype(np.int64)
