"""Rounds an update's changes to fewer bits. `server/codecs.py` reads them.

The trainer imports nothing of the broker, so the constants below are those of `broker/messages/update_forms.py` again:
`test_codecs.py` compares them.

`bf16` and `fp16` round to the nearest number. `int8` has a power of two for each 256 values, and rounds at random to
one of the two nearest multiples of it, so that the mean of many clients is right (Alistarh et al. 2017, arXiv
1610.02132).
The powers of two keep the server's sum exact: a value is an integer times 2^e.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from client_fn.errors import TrainingFailed

BLOCK: Final = 256
"""Values of a tensor that share a scale."""

SCALES: Final = "int8.scales"
"""The tensor with the exponents, int16: those of the first tensor in the order of names, then those of the next."""

NOT_FINITE: Final = 32767
"""The exponent of a block that holds NaN or infinity: the server says so, as of any other update."""

LEAST_EXPONENT: Final = -120
"""Smaller changes are rounded as if they were larger: no sum is as fine as that."""

_LARGEST: Final = 127
_CHUNK: Final = 128 * BLOCK
"""Values that are rounded at once: they stay in a core's cache, and there may be no room for a copy of the update."""

_HALVES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
_HALF_BYTES: Final = 2


def encode(update: Mapping[str, Tensor], statistics: Iterable[str], kind: str, seed: int) -> dict[str, Tensor]:
    """Return an update as it travels. Equal updates and seeds give equal ones.

    Args:
        update: the changes of float tensors, and the values of all others.
        statistics: names of buffers, which travel as they are.
        kind: the task's form of an update.
        seed: the task's.

    Raises:
        TrainingFailed: the model has a tensor of the scales' name.
    """
    kept = frozenset(statistics)
    names = sorted(name for name, tensor in update.items() if tensor.is_floating_point() and name not in kept)
    if kind in _HALVES:
        smaller = (name for name in names if update[name].element_size() > _HALF_BYTES)
        return {**update, **{name: update[name].to(_HALVES[kind]) for name in smaller}}
    return _to_int8(update, names, seed) if kind == "int8" else dict(update)


def _to_int8(update: Mapping[str, Tensor], names: Iterable[str], seed: int) -> dict[str, Tensor]:
    if SCALES in update:
        raise TrainingFailed(f"training.update = 'int8' needs the name {SCALES}: the model must not use it")
    # Of its own: the user's code must not meet the same numbers.
    # NumPy promises that PCG64's stream of integers stays the same; that of `default_rng` may change (NEP 19).
    bits = np.random.PCG64(int.from_bytes(hashlib.sha256(f"{seed}/update".encode()).digest()[:8], "big"))
    sent, exponents = dict(update), [torch.zeros(0, dtype=torch.int16)]
    for name in names:
        flat = update[name].detach().cpu().reshape(-1)
        integers = torch.empty(len(flat), dtype=torch.int8)
        for start in range(0, len(flat), _CHUNK):
            chunk = flat[start : start + _CHUNK].to(torch.promote_types(flat.dtype, torch.float32)).numpy()
            rounded, scales = _rounded(chunk, bits)
            integers[start : start + _CHUNK] = torch.from_numpy(rounded)
            exponents.append(torch.from_numpy(scales))
        sent[name] = integers.reshape(update[name].shape)
    return {**sent, SCALES: torch.cat(exponents)}


def _rounded(values: np.ndarray, bits: np.random.PCG64) -> tuple[np.ndarray, np.ndarray]:
    """Return values as integers from -127 to 127, and the exponent of each block."""
    blocks = np.zeros((-(-len(values) // BLOCK), BLOCK), values.dtype)
    blocks.reshape(-1)[: len(values)] = values
    largest = np.abs(blocks).max(axis=1)
    is_finite = np.isfinite(largest)
    blocks[~is_finite], largest[~is_finite] = 0, 0
    # largest = mantissa * 2^exponent, with a mantissa from 1/2 on: the least power of two whose 127-fold is not below.
    mantissa, exponent = np.frexp(largest)
    exponent = np.maximum(exponent - 7 + (mantissa > _LARGEST / 128), LEAST_EXPONENT)
    exponent[largest == 0] = LEAST_EXPONENT
    blocks *= np.ldexp(1.0, -exponent)[:, None].astype(values.dtype)
    blocks += _uniform(bits, blocks.shape)
    np.floor(blocks, out=blocks)
    np.minimum(blocks, _LARGEST, out=blocks)  # 127 and the largest random number make 128
    rounded = blocks.reshape(-1)[: len(values)].astype(np.int8)
    return rounded, np.where(is_finite, exponent, NOT_FINITE).astype(np.int16)


def _uniform(bits: np.random.PCG64, shape: tuple[int, int]) -> np.ndarray:
    """Return float32 numbers from [0, 1), each of 24 random bits. An even number of them is asked for."""
    raw = bits.random_raw(shape[0] * shape[1] // 2).astype("<u8", copy=False).view("<u4")
    return (raw >> 8).astype(np.float32).reshape(shape) * np.float32(2.0**-24)
