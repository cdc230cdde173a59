"""Finds MNIST's four files on this machine, or downloads them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from client_fn.data import idx
from client_fn.data.idx import Bytes, File
from client_fn.errors import DataMissing

DATA_VARIABLE: Final = "FEDKEEPER_DATA"

MIRRORS: Final = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)

TRAIN_IMAGES: Final = File(
    "train-images-idx3-ubyte", 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
)
TRAIN_LABELS: Final = File(
    "train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
)
TEST_IMAGES: Final = File(
    "t10k-images-idx3-ubyte", 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
)
TEST_LABELS: Final = File(
    "t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
)
FILES: Final = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


def folder(
    data_dir: Path | None = None,
    *,
    mirrors: Sequence[str] = MIRRORS,
    files: Sequence[File] = FILES,
    quiet: bool = False,
) -> Path:
    """Return the folder that holds the files: `data_dir`, else the folder in FEDKEEPER_DATA, else the user's cache.

    A folder that the user names must hold all files, itself or in its subfolder `mnist`. Only the cache is filled by a
    download, with a progress bar on stderr.

    Args:
        data_dir: a folder that the user names.
        mirrors: URL prefixes to download from.
        files: the files that the folder must hold, gzipped or not.
        quiet: show no progress bar.

    Raises:
        DataMissing: the named folder lacks a file, no mirror delivered one, or the cache can't be written.
    """
    variable = os.environ.get(DATA_VARIABLE)
    named = data_dir or (Path(variable) if variable else None)
    if named:
        for path in (named, named / "mnist"):
            if not _missing(path, files):
                return path
        names = ", ".join(f"{file.name}.gz" for file in files)
        raise DataMissing("mnist", str(named), f"put {names} there, or into its subfolder mnist")
    caches = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(caches) if caches else Path.home() / ".cache") / "fedkeeper" / "mnist"
    missing = _missing(cache, files)
    if missing:
        from client_fn.data import download

        download.fetch("mnist", missing, to=cache, mirrors=mirrors, variable=DATA_VARIABLE, quiet=quiet)
    return cache


def read(path: Path, file: File) -> Bytes:
    """Return the verified content of a file.

    Args:
        path: a folder that `folder` returned.
        file: one of its files.

    Raises:
        BadData: the content is not the expected one.
    """
    existing = next(candidate for candidate in _candidates(path, file) if candidate.exists())
    return idx.parse(str(existing), idx.decompress(str(existing), existing.read_bytes(), file))


def _missing(path: Path, files: Sequence[File]) -> list[File]:
    return [file for file in files if not any(candidate.exists() for candidate in _candidates(path, file))]


def _candidates(path: Path, file: File) -> Iterator[Path]:
    yield path / f"{file.name}.gz"
    yield path / file.name
