"""A shard: one client's samples as a safetensors file {x, y}, wherever fsspec reaches (`file://`, `s3://`, ...)."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from broker.messages.errors import BadTensors
from broker.messages.job import Data
from broker.messages.register import ClientRecord
from broker.topics import checked_id
from client_fn.data import files, partition
from client_fn.data.datasets import Dataset
from client_fn.errors import BadShard, DataMissing

if TYPE_CHECKING:
    # Staging needs no torch.
    from torch import Tensor

Array = NDArray[Any]

FILE_NAME: Final = "shard.safetensors"


def write(url: str, x: Array, y: Array) -> None:
    """Write a shard, unless the same one is there already; a local file is written whole or not at all.

    Args:
        url: fsspec URL, or a path.
        x: samples (N, ...), stored as they are.
        y: labels (N,), integers from 0, stored as int64.

    Raises:
        BadShard: x and y are no samples, or it can't be written there.
    """
    _check(url, x.shape, y.shape, whole=np.issubdtype(y.dtype, np.integer))
    content = _encoded(x, y)
    with _mapped(url):
        system, path = _place(url)
        if not _has(system, path, content):
            _store(system, path, content)


def read(url: str) -> "tuple[Tensor, Tensor]":
    """A shard's samples (N, ...) as they were written, and its labels (N,) as int64.

    Args:
        url: fsspec URL, or a path.

    Raises:
        DataMissing: nothing is there.
        BadShard: it is no shard, or can't be read.
    """
    from client_fn.training import tensors

    with _mapped(url):
        system, path = _place(url)
        content = system.cat_file(path)
    try:
        named = tensors.from_bytes(content)
    except BadTensors as exc:
        raise BadShard(shown(url), str(exc)) from exc
    if named.keys() != {"x", "y"}:
        raise BadShard(shown(url), f"it holds {sorted(named)} instead of x and y")
    x, y = named["x"], named["y"]
    _check(url, tuple(x.shape), tuple(y.shape), whole=not (y.is_floating_point() or y.is_complex()))
    return x, y.long()


def stage(
    dataset: Dataset,
    data: Data,
    to: str | Mapping[str, str],
    *,
    platform: str,
    on_staged: Callable[[ClientRecord], None] | None = None,
) -> list[ClientRecord]:
    """Deal a dataset's training samples to clients, each to its own place `<to>/<client>/shard.safetensors`.

    A shard that is there already is left as it is, so staging twice is cheap.

    Args:
        dataset: what to deal.
        data: how; clients are called `<data.key>-<number>`.
        to: fsspec URL, or a folder; or one for each client that is wanted, by the client's name.
        platform: that hosts the clients' functions.
        on_staged: called after each client.

    Returns:
        What the register should know of each client.

    Raises:
        BadPartition: there are too few samples.
        BadTopic: the data's name is too long to name clients by.
        BadShard: it can't be written there.
    """
    names = client_ids(data)
    folders = dict.fromkeys(names, to) if isinstance(to, str) else to
    records: list[ClientRecord] = []
    for client, indices in zip(names, partition.deal(dataset.train_y, data), strict=True):
        if client not in folders:
            continue
        where = place(folders[client], client)
        write(where, dataset.train_x[indices], dataset.train_y[indices])
        records.append(_record(client, platform, where, data, len(indices)))
        if on_staged:
            on_staged(records[-1])
    return records


def client_ids(data: Data) -> list[str]:
    """The names of a deal's clients: `<data.key>-<number>`.

    Raises:
        BadTopic: the data's name is too long to name clients by.
    """
    digits = max(3, len(str(data.clients - 1)))
    return [checked_id(f"{data.key}-{number:0{digits}d}") for number in range(data.clients)]


def place(folder: str, client: str) -> str:
    """URL of a client's shard below a folder or fsspec URL."""
    return f"{_absolute(folder)}/{client}/{FILE_NAME}"


def shown(url: str) -> str:
    """The URL for a message: without what may be a secret, user information and query."""
    return re.sub(r"//[^/@]*@", "//", url).partition("?")[0]


def _record(client: str, platform: str, place: str, data: Data, samples: int) -> ClientRecord:
    return ClientRecord(id=client, platform=platform, data_loc=place, labels={"data": data.key}, samples=samples)


def _absolute(to: str) -> str:
    """The function may run in another working directory. fsspec does not decode `%20`, so none is written."""
    return to.rstrip("/") if "://" in to else f"file://{Path(to).resolve()}"


def _check(url: str, x: tuple[int, ...], y: tuple[int, ...], *, whole: bool) -> None:
    if len(y) != 1 or not whole:
        raise BadShard(shown(url), f"y has shape {y}; whole numbers of shape (N,) are wanted")
    if x[:1] != y or not y[0]:
        raise BadShard(shown(url), f"x has shape {x} for {y[0]} labels")


def _encoded(x: Array, y: Array) -> bytes:
    """With a digest of the samples in its header, so that the header tells whether a file is the same."""
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y, dtype=np.int64)
    digest = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    return safetensors.numpy.save({"x": x, "y": y}, {"sha256": digest})


def _place(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; fsspec takes 0.1 s to import."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return system, str(path)


def _has(system: Any, path: str, content: bytes) -> bool:
    """Whether the same shard is there: compares its size and its header, which has the digest."""
    header = 8 + int.from_bytes(content[:8], "little")
    try:
        if system.info(path)["size"] != len(content):
            return False
        return bool(system.cat_file(path, 0, header) == content[:header])
    except FileNotFoundError:
        return False


def _store(system: Any, path: str, content: bytes) -> None:
    if "file" in system.protocol:
        files.write(Path(path), content)
    else:
        # Object stores show an object when all of it is there.
        system.pipe_file(path, content)


@contextlib.contextmanager
def _mapped(url: str) -> Iterator[None]:
    """What fsspec and its backends raise: a missing file, a missing backend, an unknown scheme, a failed call."""
    try:
        yield
    except FileNotFoundError as exc:
        raise DataMissing("shard", shown(url), "stage the data there, or register the client's data_loc") from exc
    except (OSError, ImportError, ValueError) as exc:
        raise BadShard(shown(url), str(exc)) from exc
