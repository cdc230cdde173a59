"""Makes an update: the tensors that a client sends back."""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.random import SFC64
from torch import Tensor

from client_fn.errors import TrainingFailed
from client_fn.training import tensors
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import AUX

NOISE_EXPONENT: Final = -11
"""A dry update's values are 2^-11 to 2^-9 in absolute value: about what a round of training changes."""

_EXPONENT_BITS: Final = {torch.float64: 11, torch.float32: 8, torch.bfloat16: 8, torch.float16: 5}
_WORD_BITS: Final = 64
_BLOCK_WORDS: Final = 4096


def make(held: ModelTensors, base: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return a trained model's update, without what nobody trains. The model can't be used after this.

    A change is computed in the memory of the model where possible: there may be no room for another one.

    Args:
        held: the trained model.
        base: all tensors of the round's model.
        kind: `weights`; any other: floating-point tensors as `trained - base`, in the model's dtype. Integers are
            values in both. `client_fn.training.codecs` rounds the changes.

    Raises:
        TrainingFailed: the training has changed the names, shapes or dtypes of the model's tensors.
    """
    trained, frozen = held.all(), held.frozen(base)
    if differences := tensors.compare(base, trained):
        raise TrainingFailed(f"the training must keep the model's tensors, now these are {differences}")
    sent = {name: tensor for name, tensor in trained.items() if name not in frozen}
    if kind == "weights":
        return sent
    if held.module is not None:
        held.module.zero_grad(set_to_none=True)  # their memory is needed now
    in_place = held.module is not None and _are_separate(sent.values())
    return {name: _change(tensor, base[name], in_place=in_place) for name, tensor in sent.items()}


def _change(tensor: Tensor, base: Tensor, *, in_place: bool) -> Tensor:
    """Return a float tensor's change, in the memory of the model where that is allowed: nobody uses it after this."""
    if not tensor.is_floating_point():
        return tensor
    trained = tensor.cpu()
    return trained.sub_(base) if in_place and trained.is_contiguous() else trained - base


def _are_separate(tensors: Iterable[Tensor]) -> bool:
    addresses = [tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()]
    return len(addresses) == len({*addresses})


def noise(held: ModelTensors, base: Mapping[str, Tensor], kind: str, seed: int) -> dict[str, Tensor]:
    """Return an update of a dry task: noise instead of a training's result, which is as hard to compress.

    Args:
        held: tells which tensors are trained.
        base: all tensors of the round's model.
        kind: as in `make`.
        seed: for the noise.
    """
    frozen = held.frozen(base)
    update, bits = {name: base[name] for name in held.all() if name not in frozen}, SFC64(seed)
    for dtype in dict.fromkeys(tensor.dtype for tensor in update.values() if tensor.is_floating_point()):
        named = {name: tensor for name, tensor in update.items() if tensor.dtype == dtype}
        counts = [tensor.numel() for tensor in named.values()]
        for (name, tensor), part in zip(named.items(), torch.split(_noise(dtype, sum(counts), bits), counts)):  # noqa: B905
            delta = part.reshape(tensor.shape)
            update[name] = tensor + delta if kind == "weights" else delta
    return update


def _noise(dtype: torch.dtype, count: int, bits: SFC64) -> Tensor:
    """Return numbers whose sign, fraction and last bit of the exponent are random: there is nothing to compress.

    The other bits of the exponent are those of 2^NOISE_EXPONENT, whose last one is 0 in each of these dtypes.
    """
    size = torch.finfo(dtype).bits
    fraction_bits = size - 1 - _EXPONENT_BITS[dtype]
    bias = (1 << _EXPONENT_BITS[dtype] - 1) - 1
    random = _repeated((1 << size - 1) | (2 << fraction_bits) - 1, size)
    exponent = _repeated((bias + NOISE_EXPONENT) << fraction_bits, size)
    words = -(-count * size // _WORD_BITS)
    # Each block is the first one with other bits inverted: that takes a fifth of the time of drawing all words.
    block = bits.random_raw(min(words, _BLOCK_WORDS)) & random | exponent
    inverted = bits.random_raw(-(-words // _BLOCK_WORDS)) & random
    noise = np.bitwise_xor.outer(inverted, block).reshape(-1).view(f"i{size // 8}")[:count]
    return torch.from_numpy(noise).view(dtype)


def _repeated(value: int, bits: int) -> np.uint64:
    """Return a word that holds a value of so many bits as often as it fits."""
    return np.uint64(sum(value << shift for shift in range(0, _WORD_BITS, bits)))


def with_aux(update: Mapping[str, Tensor], aux: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an update with the strategy's tensors beside the model's.

    Args:
        update: the model's tensors.
        aux: the strategy's; their names get `aux.` in front.

    Raises:
        TrainingFailed: the model has a tensor of such a name.
    """
    named = {f"{AUX}{name}": tensor for name, tensor in aux.items()}
    if both := sorted(update.keys() & named.keys()):
        raise TrainingFailed(f"the strategy needs the names {', '.join(both)}: the model must not use them")
    return {**update, **named}
