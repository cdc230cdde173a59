"""How the weights' changes of a round's updates have travelled, and how they are read. Pure.

`client_fn/training/codecs.py` writes them. A change is rounded once, there; the server adds exactly what has come.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from broker.messages.tensors import DTYPES, FLOATS, Layout, Tensors
from broker.messages.update_forms import (
    BLOCK,
    LARGEST_EXPONENT,
    LEAST_EXPONENT,
    NOT_FINITE,
    ROUNDED,
    SCALES,
    UpdateForm,
)
from server.errors import Refused
from server.values import Scaled, Values

_DTYPES: Final[dict[UpdateForm, str]] = {"bf16": "BF16", "fp16": "F16", "int8": "I8"}


@dataclass(frozen=True, slots=True)
class Codec:
    """How a round's updates travel.

    Attributes:
        update: the form.
        layout: the tensors of an update on the wire.
        names: those that are rounded, sorted. All others travel in the model's dtype.
    """

    update: UpdateForm
    layout: Layout
    names: tuple[str, ...] = ()

    @property
    def is_rounded(self) -> bool:
        """Whether an update must have this very form."""
        return self.update in ROUNDED

    @property
    def scaled(self) -> tuple[str, ...]:
        """Names of the tensors that come as integers with scales."""
        return self.names if self.update == "int8" else ()

    def open(self, tensors: Tensors) -> dict[str, Values]:
        """Return an update's tensors as they can be read, without copies.

        Args:
            tensors: of the layout.

        Raises:
            Refused: a scale is none.
        """
        if self.update != "int8":
            return dict(tensors)
        opened: dict[str, Values] = {name: tensor for name, tensor in tensors.items() if name != SCALES}
        exponents, begin = tensors[SCALES], 0
        told = exponents[exponents != NOT_FINITE]
        if told.size and not LEAST_EXPONENT <= int(told.min()) <= int(told.max()) <= LARGEST_EXPONENT:
            limits = f"{LEAST_EXPONENT} to {LARGEST_EXPONENT} are possible"
            raise Refused("magnitude", f"{SCALES} holds exponents from {told.min()} to {told.max()}, {limits}")
        for name in self.names:
            integers = tensors[name].reshape(-1)
            end = begin + _blocks(integers.size)
            opened[name] = Scaled(integers, exponents[begin:end], tensors[name].shape)
            begin = end
        return opened


def of(update: UpdateForm, layout: Layout, weights: Iterable[str]) -> Codec:
    """Return how a round's updates travel.

    Args:
        update: the job's `training.update`.
        layout: the tensors of an update, as they are added.
        weights: names of the weights: statistics, integers and a strategy's own tensors are never rounded.
    """
    if update not in ROUNDED:
        return Codec(update, layout)
    dtype = _DTYPES[update]
    size = DTYPES[dtype].itemsize
    names = tuple(sorted(name for name in weights if layout[name][0] in FLOATS and _itemsize(layout, name) > size))
    wire = {**layout, **{name: (dtype, layout[name][1]) for name in names}}
    if update == "int8":
        wire[SCALES] = ("I16", (sum(_blocks(math.prod(layout[name][1])) for name in names),))
    return Codec(update, wire, names)


def _itemsize(layout: Layout, name: str) -> int:
    return DTYPES[layout[name][0]].itemsize


def _blocks(values: int) -> int:
    return -(-values // BLOCK)


def largest_of(dtype: str) -> float:
    """Return the largest number of a float dtype, as a float64; infinity for other dtypes.

    Args:
        dtype: its code in a file.
    """
    return _LARGEST.get(dtype, math.inf)


_LARGEST: Final = {
    "F64": float(np.finfo(np.float64).max),
    "F32": float(np.finfo(np.float32).max),
    "F16": float(np.finfo(np.float16).max),
    "BF16": float(np.array(0x7F7F, np.uint16).view(DTYPES["BF16"])),
}
