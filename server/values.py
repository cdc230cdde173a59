"""The values of an update's tensors, read block by block as float64, however they have travelled."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import ml_dtypes
import numpy as np

from broker.messages.tensors import Array
from broker.messages.update_forms import BLOCK, NOT_FINITE

READ: Final = 1 << 15
"""Values to read at once: 256 kB as float64 stay in a core's cache. It is a multiple of `BLOCK`."""

_HALVES: Final = frozenset({np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})
_MAGNITUDE: Final = 0x7FFF


@dataclass(frozen=True, slots=True)
class Scaled:
    """A tensor of `int8` values with a power of two for each block, as views of the update.

    Attributes:
        integers: int8 (n,).
        exponents: int16 (blocks,): value i is `integers[i] * 2 ** exponents[i // 256]`.
        shape: the tensor's shape.
    """

    integers: Array
    exponents: Array
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return self.integers.size


Values = Array | Scaled


def blocks(values: Values, buffer: Array, scale: float = 1.0) -> Iterator[tuple[slice, Array]]:
    """Yield where each block of a tensor is, and its values times a scale, in a part of the buffer.

    Args:
        values: the tensor, in the order of its memory's rows.
        buffer: float64 (READ,); each block overwrites the one before.
        scale: what every value is multiplied by.
    """
    flat = values.integers if isinstance(values, Scaled) else values.reshape(-1)
    for start in range(0, flat.size, READ):
        part = flat[start : start + READ]
        where, block = slice(start, start + part.size), buffer[: part.size]
        np.copyto(block, part)
        if isinstance(values, Scaled):
            first = start // BLOCK
            _multiply(block, np.ldexp(scale, values.exponents[first : first + READ // BLOCK]))
        elif scale != 1.0:
            block *= scale
        yield where, block


def _multiply(block: Array, factors: Array) -> None:
    """Multiply each 256 values by a factor of their own; the last ones may be fewer."""
    whole = block.size // BLOCK
    rows = block[: whole * BLOCK].reshape(whole, BLOCK)
    rows *= factors[:whole, None]
    if whole < len(factors):
        block[whole * BLOCK :] *= factors[whole]


def dense(values: Values, dtype: np.dtype[np.generic]) -> Array:
    """Return a tensor's values in one dimension, one after the other; copied only if they do not lie there like that.

    Args:
        values: the tensor.
        dtype: of the values; it must be able to hold them.
    """
    if not isinstance(values, Scaled):
        return np.ascontiguousarray(values.reshape(-1), dtype)
    target = np.empty(values.size, dtype)
    for where, block in blocks(values, np.empty(READ)):
        target[where] = block
    return target


def largest(values: Values) -> float:
    """Return the largest magnitude; NaN or infinity if a value is not finite. It needs no memory of the tensor's size.

    A block of an `int8` tensor counts at least with its scale, also if all of its integers are 0.
    """
    if not values.size:
        return 0.0
    if isinstance(values, Scaled):
        return _largest_scaled(values)
    if values.dtype in _HALVES:
        return _largest_half(values)
    # Two passes without a temporary: NaN makes both extremes NaN, and infinity is one of them.
    with np.errstate(invalid="ignore"):
        return max(-float(values.min()), float(values.max()))


def _largest_half(values: Array) -> float:
    """Without their sign, the bits of 16-bit floats are ordered as their magnitudes are; numpy compares them slowly."""
    positive, any_sign = int(values.view(np.int16).max()), int(values.view(np.uint16).max())
    bits = max(positive, any_sign & _MAGNITUDE if any_sign > _MAGNITUDE else 0)
    return float(np.array(bits, np.uint16).view(values.dtype))


def _largest_scaled(values: Scaled) -> float:
    if int(values.exponents.max()) == NOT_FINITE:
        return math.nan
    whole = values.size // BLOCK
    rows, rest = values.integers[: whole * BLOCK].reshape(whole, BLOCK), values.integers[whole * BLOCK :]
    magnitudes = np.maximum(rows.max(axis=1, initial=1), -rows.min(axis=1, initial=0).astype(np.int16))
    if rest.size:
        magnitudes = np.append(magnitudes, max(1, int(rest.max()), -int(rest.min())))
    return float(np.ldexp(magnitudes.astype(np.float64), values.exponents).max())
