"""A module's tensors: by name, and as safetensors bytes."""

from collections.abc import Iterator, Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from broker.messages.errors import BadTensors
from broker.messages.job import Model
from client_fn.errors import WrongTensors
from client_fn.training import models


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers, in the order of `state_dict`; they share the module's memory.

    A tensor that the module knows by several names (tied weights) is there once, under the first one.
    """
    return {name: tensor.detach() for name, tensor in _named(module)}


def trained_of(module: nn.Module) -> dict[str, Tensor]:
    """What an update carries: `tensors_of` without the frozen parameters."""
    return {name: tensor.detach() for name, tensor in _named(module) if not _is_frozen(tensor)}


def frozen_names(module: nn.Module) -> tuple[str, ...]:
    """The parameters that training leaves alone (`requires_grad` is False)."""
    return tuple(name for name, tensor in _named(module) if _is_frozen(tensor))


def load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite all tensors of a module in place.

    Args:
        module: to be changed.
        tensors: exactly what `tensors_of(module)` has: the same names, shapes and dtypes.

    Raises:
        WrongTensors: they are others; the module is unchanged.
    """
    wanted = tensors_of(module)
    _check(wanted, tensors)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])


def to_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file; without metadata, equal tensors give equal bytes.

    safetensors writes metadata in the order of a hash table, so a file that has some differs from run to run.
    """
    return safetensors.torch.save(_apart(tensors), metadata)


def from_bytes(payload: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, in the order of names, in memory of their own.

    Raises:
        BadTensors: it is none.
    """
    try:
        # The library's own order is that of a hash table.
        return dict(sorted(safetensors.torch.load(payload).items()))
    except SafetensorError as exc:
        raise BadTensors(f"not a safetensors file: {exc}") from exc


def initial(model: Model, seed: int) -> tuple[bytes, tuple[str, ...]]:
    """The first global model of a job: a safetensors file of all tensors, and the names of the frozen ones.

    Raises:
        BadModel: it can't be built.
    """
    module = models.build(model, seed=seed)
    return to_bytes(tensors_of(module)), frozen_names(module)


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Only `state_dict` knows which buffers are persistent; what else a module saves there is no tensor."""
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _is_frozen(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _check(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    missing = tuple(name for name in wanted if name not in got)
    unexpected = tuple(name for name in got if name not in wanted)
    changed = tuple(name for name in wanted if name in got and _layout(wanted[name]) != _layout(got[name]))
    if missing or unexpected or changed:
        raise WrongTensors(missing, unexpected, changed)


def _layout(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, no two of which share memory: safetensors refuses views of one another."""
    apart: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        at = whole.untyped_storage().data_ptr()
        apart[name] = whole.clone() if at in memory else whole
        memory.add(at)
    return apart
