"""The built-in datasets, as arrays."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client_fn.data import mnist
from client_fn.data.idx import Bytes
from client_fn.errors import DataMissing

NAMES: Final = ("digits", "mnist")

DIGITS_TRAIN: Final = 1437
"""Four fifths of the 1797 digits."""

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images and labels.

    Attributes:
        train_x: float32 (N, height, width), 0..1.
        train_y: int64 (N,), labels from 0.
        test_x: as `train_x`.
        test_y: as `train_y`.
    """

    train_x: Floats
    train_y: Labels
    test_x: Floats
    test_y: Labels


def load(name: str, *, data_dir: Path | None = None) -> Dataset:
    """A built-in dataset, whole.

    `digits`: 1437 and 360 images of 8x8 that come with scikit-learn (a UCI dataset), split by a fixed permutation.
    `mnist`: 60,000 and 10,000 images of 28x28 (220 MB of memory); `client_fn.data.mnist.folder` says where from.

    Raises:
        DataMissing: there is no such dataset, it is not on this machine, or can't be downloaded.
        BadData: one of its files is not the one it should be.
    """
    with _known(name):
        if name == "digits":
            return _digits()
        path = mnist.folder(data_dir)
        train = _scaled(mnist.read(path, mnist.TRAIN_IMAGES)), _labels(mnist.read(path, mnist.TRAIN_LABELS))
        return Dataset(*train, *_mnist_test(path))


def ensure(name: str, *, data_dir: Path | None = None) -> None:
    """See to it that a built-in dataset is on this machine; what only the clients have is their business.

    Raises:
        DataMissing: it is not, and can't be downloaded.
    """
    if name == "mnist":
        mnist.folder(data_dir)


def load_test(name: str, *, data_dir: Path | None = None) -> tuple[Floats, Labels]:
    """Only the test set, for who evaluates: `mnist` takes 31 MB of memory then.

    Raises:
        DataMissing, BadData: as `load`.
    """
    with _known(name):
        if name == "digits":
            digits = _digits()
            return digits.test_x, digits.test_y
        return _mnist_test(mnist.folder(data_dir))


@contextlib.contextmanager
def _known(name: str) -> Iterator[None]:
    if name not in NAMES:
        raise DataMissing(name, "fedkeeper", f"built in are {' and '.join(NAMES)}; others only the clients have")
    try:
        yield
    except ModuleNotFoundError as exc:
        raise DataMissing(name, "this Python", f"{exc.name} is missing: install fedkeeper[train]") from exc


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    images: NDArray[Any]
    labels: NDArray[Any]
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = (images[order].reshape(-1, 8, 8) / 16).astype(np.float32)
    y = labels[order].astype(np.int64)
    return Dataset(x[:DIGITS_TRAIN], y[:DIGITS_TRAIN], x[DIGITS_TRAIN:], y[DIGITS_TRAIN:])


def _mnist_test(path: Path) -> tuple[Floats, Labels]:
    return _scaled(mnist.read(path, mnist.TEST_IMAGES)), _labels(mnist.read(path, mnist.TEST_LABELS))


def _scaled(images: Bytes) -> Floats:
    return images.astype(np.float32) / np.float32(255)


def _labels(values: Bytes) -> Labels:
    return values.astype(np.int64)
