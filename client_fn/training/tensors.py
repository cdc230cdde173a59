"""A module's tensors by name, and their conversion to and from safetensors files."""

import json
import math
import mmap
from collections.abc import Iterator, Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from client_fn.errors import BadModel, TrainingFailed

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers in the order of `state_dict`. They share the module's memory.

    A tensor with several names (tied weights) appears once, under its first name.
    """
    return {name: tensor.detach() for name, tensor in _named_tensors(module)}


def trained_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of an update: `tensors_of` without the frozen parameters."""
    return {name: tensor.detach() for name, tensor in _named_tensors(module) if not _is_frozen(tensor)}


def frozen_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters that are not trained (`requires_grad` is False)."""
    return tuple(name for name, tensor in _named_tensors(module) if _is_frozen(tensor))


def load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite all tensors of a module in place.

    Args:
        module: the module to change.
        tensors: must have the names, shapes and dtypes of `tensors_of(module)`.

    Raises:
        BadModel: a name, shape or dtype differs; the module is unchanged.
    """
    targets = tensors_of(module)
    if differences := compare(targets, tensors):
        raise BadModel(f"not this model's tensors; {differences}")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])


def compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return the differences in names, shapes and dtypes as a text, which is empty if there are none.

    Args:
        expected: tensors by name.
        tensors: what is compared with them.
    """
    differences = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape or dtype": [
            name
            for name, target in expected.items()
            if name in tensors and (target.shape, target.dtype) != (tensors[name].shape, tensors[name].dtype)
        ],
    }
    return "; ".join(f"{difference}: {', '.join(names)}" for difference, names in differences.items() if names)


def to_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file. Without metadata, equal tensors give equal bytes.

    With metadata the bytes differ from run to run, because safetensors writes it in the order of a hash table.

    Args:
        tensors: of any shape, contiguous or not.
        metadata: the file's `__metadata__`.
    """
    contiguous: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        address = whole.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory.
        contiguous[name] = whole.clone() if address in addresses else whole
        addresses.add(address)
    return safetensors.torch.save(contiguous, metadata)


def from_bytes(payload: bytes | mmap.mmap) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, sorted by name. Those of mapped memory share it; writing is private.

    Raises:
        TrainingFailed: the payload is not a safetensors file.
    """
    try:
        # Sorted, because the library's own order is that of a hash table.
        return dict(
            sorted((_views(payload) if isinstance(payload, mmap.mmap) else safetensors.torch.load(payload)).items())
        )
    except (SafetensorError, ValueError, KeyError) as exc:
        raise TrainingFailed(f"not a safetensors file: {exc}") from exc


def _views(mapped: mmap.mmap) -> dict[str, Tensor]:
    """Return the tensors of mapped memory, without a copy (https://huggingface.co/docs/safetensors, Format)."""
    start = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:start])
    header.pop("__metadata__", None)
    return {name: _view(mapped, start, **entry) for name, entry in header.items()}


def _view(mapped: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=_DTYPES[dtype])
    return torch.frombuffer(mapped, dtype=_DTYPES[dtype], count=count, offset=start + data_offsets[0]).reshape(shape)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # Only `state_dict` knows which buffers are persistent. It may also hold a module's extra state, which is no tensor.
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _is_frozen(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad
