"""Splits a client's samples into those that it trains on and those that it holds out, by each sample's own digest.

A sample stays on its side when others are added, whatever their order: a model is never judged on what it was trained
on.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client_fn.errors import TrainingFailed
from client_fn.training import batches
from client_fn.training.batches import Batch, Data, Ready, Samples, Subset, TensorSamples

_DIGESTS = 2.0**64


def split(data: Data, share: float) -> tuple[Data, Data | None]:
    """Return the samples to train on, and those that are held out; None: there are none.

    A sample is held out if the first 8 bytes of the SHA-256 of its values, as a fraction of all such numbers, are
    below the share. Equal samples are on the same side. At least one sample is left to train on; batches that come
    ready are the exception.

    Args:
        data: all samples.
        share: expected share of those that are held out; 0: none is looked at.

    Raises:
        TrainingFailed: a sample holds something whose bytes are not defined.
    """
    if not share:
        return data, None
    if isinstance(data, Ready):
        return Ready(_Side(data, share, held=False)), Ready(_Side(data, share, held=True))
    draws = _draws_of(data)
    is_held = draws < _limit(share)
    if is_held.all() and len(draws):
        is_held[int(draws.argmax())] = False
    rest, held = (torch.from_numpy(np.flatnonzero(side)) for side in (~is_held, is_held))
    return Subset(data, rest), Subset(data, held) if len(held) else None


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


def _draws_of(samples: Samples) -> NDArray[np.uint64]:
    if isinstance(samples, TensorSamples):
        named = samples.named
        # Rows of bytes: a tensor per sample and column would cost 10 times as much.
        rows = [_rows(named[name]) for name in sorted(named)]
        draws = (draw([column[index].data for column in rows]) for index in range(len(samples)))
    else:
        draws = (draw(samples.item(index)) for index in range(len(samples)))
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
