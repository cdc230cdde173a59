"""Writes shards, one client's samples as a safetensors file, to any URL that fsspec knows (`file://`, `s3://`, ...)."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from broker.messages.job_sections import Data
from broker.messages.register import ClientRecord
from broker.support import files
from broker.topics import checked_id
from client_fn.data import places
from client_fn.data.datasets import Dataset
from client_fn.data.partition import partition
from client_fn.errors import BadData

Array = NDArray[Any]

FILE_NAME: Final = "shard.safetensors"


def stage(dataset: Dataset, data: Data, to: str | Mapping[str, str], *, platform: str) -> list[ClientRecord]:
    """Partition a dataset's training samples, and write each client's shard to `<to>/<client>/shard.safetensors`.

    A shard that exists already is not written again, so a second call is cheap.

    Args:
        dataset: the dataset to partition.
        data: the job's data section; clients are named `<data.key>-<number>`.
        to: fsspec URL or folder for all shards. Or a mapping from client to URL or folder; clients that it lacks get no
            shard and no record.
        platform: the platform that hosts the clients' functions.

    Returns:
        The clients' records for the register.

    Raises:
        BadData: there are too few samples, or a shard can't be written.
        BadTopic: `data.key` is too long for a client's name.
    """
    clients = client_ids(data)
    folders = dict.fromkeys(clients, to) if isinstance(to, str) else to
    records: list[ClientRecord] = []
    for client, indices in zip(clients, partition(dataset.train_y, data), strict=True):
        if client not in folders:
            continue
        url, labels = shard_url(folders[client], client), {"data": data.key}
        write(url, dataset.train_x[indices], dataset.train_y[indices])
        records.append(ClientRecord(id=client, platform=platform, data_loc=url, labels=labels, samples=len(indices)))
    return records


def client_ids(data: Data) -> list[str]:
    """Return the names of a partition's clients: `<data.key>-<number>`.

    Raises:
        BadTopic: `data.key` is too long for a client's name.
    """
    digits = max(3, len(str(data.clients - 1)))
    return [checked_id(f"{data.key}-{number:0{digits}d}") for number in range(data.clients)]


def shard_url(folder: str, client: str) -> str:
    """Return the URL of a client's shard.

    Args:
        folder: a folder or fsspec URL that holds all shards.
        client: the client's id.
    """
    # An absolute path, because the function may run in another working directory. It is not percent-encoded, because
    # fsspec does not decode it.
    base = folder.rstrip("/") if "://" in folder else f"file://{Path(folder).resolve()}"
    return f"{base}/{client}/{FILE_NAME}"


def write(url: str, x: Array, y: Array) -> None:
    """Write a shard of samples and labels, unless the same one exists already.

    Args:
        url: fsspec URL or path.
        x: samples (N, ...), stored with their dtype.
        y: labels or targets (N, ...); integers are stored as int64, others with their dtype.

    Raises:
        BadData: the shapes are wrong, or the shard can't be written.
    """
    write_tensors(url, {"x": x, "y": y.astype(np.int64, copy=False) if np.issubdtype(y.dtype, np.integer) else y})


def write_tensors(url: str, named: Mapping[str, Array]) -> None:
    """Write a shard, unless the same one exists already. A local file is written atomically.

    Args:
        url: fsspec URL or path.
        named: tensors (N, ...) by name, stored with their dtypes.

    Raises:
        BadData: the shapes are wrong, or the shard can't be written.
    """
    _check(url, named)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in named.items()}
    # The digest in the header lets a reader compare two shards by their headers alone.
    digest = hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()
    content = safetensors.numpy.save(tensors, {"sha256": digest})
    with _map_errors(url):
        system, path = _resolve(url)
        if _is_stored(system, path, content):
            return
        if "file" in system.protocol:
            files.write(Path(path), content)
        else:
            # An object store shows an object only when it is complete.
            system.pipe_file(path, content)


def _check(url: str, named: Mapping[str, Array]) -> None:
    shapes = ", ".join(f"{name} has shape {tensor.shape}" for name, tensor in named.items())
    counts = {tensor.shape[:1] for tensor in named.values()}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise _bad(url, f"{shapes}; the first side is the number of samples, equal in all and at least 1")


def _is_stored(system: Any, path: str, content: bytes) -> bool:
    """Whether the file holds this shard already. Compares the size and the header, which holds the digest."""
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    try:
        if system.info(path)["size"] != len(content):
            return False
        return bool(system.cat_file(path, 0, header_bytes) == content[:header_bytes])
    except FileNotFoundError:
        return False


def _resolve(url: str) -> tuple[Any, str]:
    """Return a URL's file system and path."""
    # The import takes 0.1 s.
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return system, str(path)


@contextlib.contextmanager
def _map_errors(url: str) -> Iterator[None]:
    """Map the errors of fsspec and its backends: no such backend or scheme, a failed call."""
    try:
        yield
    except (OSError, ImportError, ValueError) as exc:
        raise _bad(url, str(exc)) from exc


def _bad(url: str, reason: str) -> BadData:
    where = places.show(url)
    return BadData(f"shard {where}: {reason}", where=where, reason=reason)
