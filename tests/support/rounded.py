"""Updates in fewer bits, as docs/wire.md describes them: written without the code of the function."""

from collections.abc import Iterable

import numpy as np

from broker.messages.tensors import DTYPES, Array, Tensors
from broker.messages.update_forms import BLOCK, SCALES, UpdateForm

LEAST = -120


def rounded(update: Tensors, weights: Iterable[str], form: UpdateForm) -> Tensors:
    """Return an update as it travels; `int8` is rounded to the nearest integer.

    Args:
        update: the changes.
        weights: names of those that are rounded, all of them larger than what they are rounded to.
        form: the job's.
    """
    names = sorted(weights)
    if form in ("bf16", "fp16"):
        dtype = DTYPES["BF16" if form == "bf16" else "F16"]
        return {**update, **{name: np.asarray(update[name].astype(dtype)) for name in names}}
    if form != "int8":
        return dict(update)
    sent, scales = dict(update), [np.zeros(0, np.int16)]
    for name in names:
        flat = update[name].astype(np.float64).reshape(-1)
        own = np.array([_exponent(flat[i : i + BLOCK]) for i in range(0, flat.size, BLOCK)], np.int16)
        integers = np.rint(flat / 2.0 ** np.repeat(own, BLOCK)[: flat.size].astype(np.float64))
        sent[name] = np.asarray(integers.astype(np.int8).reshape(update[name].shape))
        scales.append(own)
    return {**sent, SCALES: np.concatenate(scales)}


def _exponent(block: Array) -> int:
    """Return the least power of two whose 127-fold is not below a block's largest magnitude."""
    largest = float(np.abs(block).max(initial=0.0))
    return max(LEAST, int(np.ceil(np.log2(largest / 127)))) if largest else LEAST


def exact(sent: Tensors, name: str) -> Array:
    """Return the values of an `int8` tensor, float64, of an update that has only this one rounded.

    Args:
        sent: the update.
        name: the tensor's.
    """
    integers = sent[name].astype(np.float64).reshape(-1)
    scales = 2.0 ** np.repeat(sent[SCALES], BLOCK)[: integers.size].astype(np.float64)
    return (integers * scales).reshape(sent[name].shape)
