"""Splits a client's samples into those that it trains on and those that it holds out, by each sample's own digest.

A sample stays on its side when others are added, whatever their order: a model is never judged on what it was trained
on.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from client_fn.errors import TrainingFailed
from client_fn.training import batches
from client_fn.training.batches import Batch, Ready, TensorSamples

_DIGESTS = 2.0**64


class Split(NamedTuple):
    """The two sides of a client's samples, each in the form of the whole.

    Attributes:
        rest: the samples to train on.
        held: those that are held out; None: there are none.
    """

    rest: Any
    held: Any


def split(data: Any, share: float) -> Split:
    """Split what a learner's `data` has returned.

    A sample is held out if the first 8 bytes of the SHA-256 of its values, as a fraction of all such numbers, are
    below the share. Equal samples are on the same side. At least one sample is left to train on; batches that come
    ready are the exception.

    Args:
        data: a tuple or mapping of tensors or arrays, a map-style dataset, or an iterable of batches.
        share: expected share of the samples that are held out; 0: none is looked at.

    Raises:
        TrainingFailed: it is none of these, or a sample holds something whose bytes are not defined.
    """
    if not share:
        return Split(data, None)
    samples = batches.of(data)
    if isinstance(samples, Ready):
        side = _Side(samples, share, held=True)
        return Split(_Side(samples, share, held=False), side if next(iter(side), None) is not None else None)
    if isinstance(samples, TensorSamples):
        draws = _draws_of_rows(samples)
    else:
        draws = np.fromiter((draw(samples.item(index)) for index in range(len(samples))), np.uint64, len(samples))
    is_held = draws < _limit(share)
    if is_held.all() and len(draws):
        is_held[int(draws.argmax())] = False
    rest, held = (np.flatnonzero(side) for side in (~is_held, is_held))
    return Split(_some_of(data, rest), _some_of(data, held) if len(held) else None)


def _some_of(data: Any, indices: NDArray[np.int64]) -> Any:
    """Return some samples of a dataset, or of tensors or arrays in a tuple or mapping."""
    if isinstance(data, TensorDataset):
        return TensorDataset(*_some_of(data.tensors, indices))
    if isinstance(data, Mapping):
        return {name: _rows_of(values, indices) for name, values in data.items()}
    if isinstance(batches.of(data), TensorSamples):
        return tuple(_rows_of(values, indices) for values in data)
    return Subset(data, indices.tolist())


def _rows_of(values: Any, indices: NDArray[np.int64]) -> Any:
    return values.index_select(0, torch.from_numpy(indices)) if isinstance(values, Tensor) else values[indices]


def draw(sample: Any) -> int:
    """Return the number, 0 to 2^64 - 1, that decides about a sample: it depends on nothing but its values.

    Args:
        sample: a nest of mappings, tuples and lists with tensors, arrays, numbers, texts and bytes. Mappings are read
            in the order of their keys.

    Raises:
        TrainingFailed: it holds something else.
    """
    digest = hashlib.sha256()
    for part in _bytes_in(sample):
        digest.update(part)
    return int.from_bytes(digest.digest()[:8], "big")


def _limit(share: float) -> np.uint64:
    return np.uint64(share * _DIGESTS)


def _draws_of_rows(samples: TensorSamples) -> NDArray[np.uint64]:
    # Rows of bytes: a tensor per sample and column would cost 10 times as much.
    columns = [_rows(samples.named[name]) for name in sorted(samples.named)]
    draws = (draw([column[index].data for column in columns]) for index in range(len(samples)))
    return np.fromiter(draws, np.uint64, len(samples))


def _rows(tensor: Tensor) -> NDArray[np.uint8]:
    """Return the bytes of each sample (N, bytes)."""
    flat = tensor.detach().cpu().contiguous()
    if not flat.numel():
        return np.zeros((len(flat), 0), np.uint8)
    return flat.reshape(len(flat), -1).view(torch.uint8).numpy()


def _bytes_in(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, (bytes, bytearray, memoryview)):
        yield memoryview(value)
    elif isinstance(value, str):
        yield value.encode(errors="surrogatepass")
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _bytes_in(value[key])
    elif isinstance(value, Tensor):
        yield _rows(value.reshape(1, -1)).tobytes()
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _bytes_in(part)
    elif value is not None:
        yield from _bytes_of_array(value)


def _bytes_of_array(value: Any) -> Iterator[bytes | memoryview]:
    # Images are arrays too. An object that is none becomes an array of one object.
    array = np.asarray(value)
    if not array.dtype.hasobject:
        yield array.tobytes()
    elif array.ndim:
        yield from _bytes_in(array.tolist())
    else:
        raise TrainingFailed(
            f"evaluation.holdout: a sample holds a {type(value).__name__}, whose bytes are not defined: give it as a "
            "tensor, an array, a number or a text, or set evaluation.holdout to 0"
        )


class _Side:
    """The held-out or the other samples of batches that come ready. A batch without any is left out."""

    def __init__(self, data: Ready, share: float, *, held: bool) -> None:
        self._batches = data.batches
        self._limit = _limit(share)
        self._held = held

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            size = batches.size(batch)
            draws = np.fromiter((draw(_part(batch, size, [i])) for i in range(size)), np.uint64, size)
            chosen = np.flatnonzero((draws < self._limit) == self._held).tolist()
            if chosen:
                yield _part(batch, size, chosen)


def _part(value: Any, size: int, chosen: list[int]) -> Any:
    """Return some samples of a batch of that size."""
    if isinstance(value, Mapping):
        return {name: _part(part, size, chosen) for name, part in value.items()}
    if isinstance(value, Tensor):
        return value[chosen] if value.dim() and len(value) == size else value
    if isinstance(value, tuple):
        return tuple(_part(part, size, chosen) for part in value)
    if isinstance(value, list):
        is_column = len(value) == size and not any(isinstance(part, Tensor) and part.dim() for part in value)
        return [value[i] for i in chosen] if is_column else [_part(part, size, chosen) for part in value]
    return value
