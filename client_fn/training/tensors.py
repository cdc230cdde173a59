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
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""In the order of a file: the format asks for alignment, so wide ones come first."""

_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ORDER = list(_CODES)
_ALIGNMENT = 8


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


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return a safetensors file. Equal tensors give equal bytes: those of `safetensors.torch.save`, which copies twice.

    Args:
        tensors: of any shape, contiguous or not.
    """
    if any(tensor.dtype not in _CODES for tensor in tensors.values()):  # as an optimizer's state may have
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        return safetensors.torch.save(copies)
    header: dict[str, dict[str, object]] = {}
    contents: list[memoryview] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (_ORDER.index(item[1].dtype), item[0])):
        contents.append(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        begin, end = end, end + contents[-1].nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join((len(text).to_bytes(8, "little"), text, *contents))


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
