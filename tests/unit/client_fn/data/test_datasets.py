"""The built-in datasets: their content, and the error for an unknown one."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from client_fn.data import datasets, mnist
from client_fn.errors import DataMissing
from tests.support import idx_files
from tests.support.idx_files import SMALL, described, put


def test_digits_are_complete_scaled_and_split_the_same_way_each_time() -> None:
    digits = datasets.load("digits")
    assert digits.train_x.shape == (1437, 8, 8)
    assert digits.test_x.shape == (360, 8, 8)
    assert digits.train_x.dtype == np.float32
    assert digits.train_y.dtype == np.int64
    assert (digits.train_x.min(), digits.train_x.max()) == (0, 1)
    assert set(digits.test_y) == set(range(10))
    # Pinned, so that a partition or an accuracy means the same samples everywhere.
    digest = hashlib.sha256(digits.train_x.tobytes() + digits.train_y.tobytes()).hexdigest()
    assert digest == "8f8f76090da8682eaffa592d35cb961bce756d230128f4351a9caecec6c94962"


def test_the_test_set_alone_is_the_same() -> None:
    x, y = datasets.load_test("digits")
    whole = datasets.load("digits")
    assert np.array_equal(x, whole.test_x)
    assert np.array_equal(y, whole.test_y)


def test_the_error_for_an_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(DataMissing, match="built in are digits and mnist"):
        datasets.load("cifar")


def test_mnist_s_images_are_scaled_and_its_labels_int64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "data", compressed=True)
    for constant, file in zip(("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS"), SMALL * 2, strict=True):
        monkeypatch.setattr(mnist, constant, file)
    monkeypatch.setattr(mnist, "folder", lambda _: folder)
    whole = datasets.load("mnist")
    assert whole.train_x.dtype == np.float32
    assert whole.train_x[0].tolist() == [[0.0, np.float32(0.2)], [np.float32(0.4), 1.0]]
    assert whole.test_y.dtype == np.int64
    assert whole.test_y.tolist() == [7, 3]
    assert np.array_equal(datasets.load_test("mnist")[0], whole.test_x)


def test_files_of_mnist_s_kind_become_a_dataset_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated images of MNIST's size replace it, with more training than test images."""
    draw = np.random.default_rng(1)
    arrays = {
        "TRAIN_IMAGES": draw.integers(0, 256, (60, 28, 28), np.uint8),
        "TRAIN_LABELS": draw.integers(0, 10, 60, np.uint8),
        "TEST_IMAGES": draw.integers(0, 256, (10, 28, 28), np.uint8),
        "TEST_LABELS": np.arange(10, dtype=np.uint8),
    }
    contents = {name: idx_files.idx(array) for name, array in arrays.items()}
    for name, content in contents.items():
        monkeypatch.setattr(mnist, name, described(name, content))
    monkeypatch.setattr(mnist, "folder", lambda given: given)
    folder = put(tmp_path / "data", compressed=False, contents=contents)
    whole = datasets.load("mnist", data_dir=folder)
    assert (whole.train_x.shape, whole.test_x.shape) == ((60, 28, 28), (10, 28, 28))
    np.testing.assert_array_equal(np.rint(whole.train_x * 255), arrays["TRAIN_IMAGES"])
    np.testing.assert_array_equal(whole.train_y, arrays["TRAIN_LABELS"])
    np.testing.assert_array_equal(np.rint(whole.test_x * 255), arrays["TEST_IMAGES"])
    assert whole.test_y.tolist() == list(range(10))
