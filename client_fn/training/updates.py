"""Makes an update: the tensors that a client sends back."""

from collections.abc import Iterable, Mapping
from typing import Final

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
_WORD_BYTES: Final = 8


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
    bits = SFC64(seed)
    update, frozen = {}, held.frozen(base)
    for name in [name for name in held.all() if name not in frozen]:
        tensor = base[name]
        if not tensor.is_floating_point():
            update[name] = tensor
            continue
        delta = _noise_like(tensor, bits)
        update[name] = tensor + delta if kind == "weights" else delta
    return update


def _noise_like(tensor: Tensor, bits: SFC64) -> Tensor:
    """Return numbers whose sign, fraction and last bit of the exponent are random. Normal noise takes far longer.

    The other bits of the exponent are those of 2^NOISE_EXPONENT, whose last one is 0 in each of these dtypes.
    """
    size, count = tensor.element_size(), tensor.numel()
    exponent_bits = _EXPONENT_BITS[tensor.dtype]
    fraction_bits = 8 * size - 1 - exponent_bits
    bias = (1 << exponent_bits - 1) - 1
    random = (1 << 8 * size - 1) | ((2 << fraction_bits) - 1)
    words = bits.random_raw(-(-count * size // _WORD_BYTES)).view(f"u{size}")
    words &= words.dtype.type(random)
    words |= words.dtype.type((bias + NOISE_EXPONENT) << fraction_bits)
    return torch.from_numpy(words.view(f"i{size}")[:count]).view(tensor.dtype).reshape(tensor.shape)


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
