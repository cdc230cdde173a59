"""Reads shards in tests."""

from typing import Any

import fsspec
import safetensors.numpy
from numpy.typing import NDArray

Array = NDArray[Any]


def read_shard(url: str) -> tuple[Array, Array]:
    """Return the samples and the labels of a shard as they are stored.

    Args:
        url: fsspec URL or path.
    """
    system, path = fsspec.core.url_to_fs(url)
    named = safetensors.numpy.load(system.cat_file(path))
    assert named.keys() == {"x", "y"}
    return named["x"], named["y"]
