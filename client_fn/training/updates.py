"""Makes an update: the tensors that a client sends back."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from client_fn.errors import TrainingFailed
from client_fn.training import tensors
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import AUX

NOISE: Final = 1e-3
"""Standard deviation of a dry update's delta: about what a round of training changes."""


def make(held: ModelTensors, base: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return a trained model's update, without what nobody trains.

    Args:
        held: the trained model.
        base: all tensors of the round's model.
        kind: `weights`, or `delta`: floating-point tensors as `trained - base`, in the model's dtype. Integers are
            values in both.

    Raises:
        TrainingFailed: the training has changed the names, shapes or dtypes of the model's tensors.
    """
    trained, frozen = held.all(), held.frozen(base)
    if differences := tensors.compare(base, trained):
        raise TrainingFailed(f"the training must keep the model's tensors, now these are {differences}")
    sent = {name: tensor for name, tensor in trained.items() if name not in frozen}
    if kind == "weights":
        return sent
    return {name: tensor.cpu() - base[name] if tensor.is_floating_point() else tensor for name, tensor in sent.items()}


def noise(held: ModelTensors, base: Mapping[str, Tensor], kind: str, seed: int) -> dict[str, Tensor]:
    """Return an update of a dry task: normal noise instead of a training's result, so that it is as hard to compress.

    Args:
        held: tells which tensors are trained.
        base: all tensors of the round's model.
        kind: `weights` or `delta`.
        seed: for the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    update, frozen = {}, held.frozen(base)
    for name in [name for name in held.all() if name not in frozen]:
        tensor = base[name]
        if not tensor.is_floating_point():
            update[name] = tensor
            continue
        delta = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).mul_(NOISE)
        update[name] = delta if kind == "delta" else tensor + delta
    return update


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
