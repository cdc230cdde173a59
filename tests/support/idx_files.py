"""Small IDX files that stand for MNIST's."""

import gzip
import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from client_fn.data.idx import Bytes, File


def idx(array: Bytes) -> bytes:
    """An array as an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def described(name: str, content: bytes) -> File:
    """Return the expected size and digest of a file, in the form of `client_fn.data.mnist`."""
    return File(name, len(content), hashlib.sha256(content).hexdigest())


IMAGES: Final = idx(np.array([[[0, 51], [102, 255]], [[1, 2], [3, 4]]], np.uint8))
LABELS: Final = idx(np.array([7, 3], np.uint8))
SMALL: Final = (described("images", IMAGES), described("labels", LABELS))
CONTENTS: Final = {"images": IMAGES, "labels": LABELS}


def put(folder: Path, *, compressed: bool, contents: Mapping[str, bytes] = CONTENTS) -> Path:
    """Write files into a new folder, each under its name, or gzipped with `.gz` behind it."""
    folder.mkdir(parents=True)
    for name, content in contents.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder
