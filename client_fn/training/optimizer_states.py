"""Converts an optimizer's state to and from a safetensors file, so that a client's next round continues with it."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, NAdam, Optimizer

from client_fn.errors import TrainingFailed
from client_fn.training import tensors
from client_fn.training.optimizers import parameters_of
from client_fn.training.packets import Content

_COUNTERS: Final = frozenset({"step", "mu_product"})
_NUMBERS: Final[dict[str, tuple[type[Any], torch.dtype]]] = {
    "bool": (bool, torch.bool),
    "int": (int, torch.int64),
    "float": (float, torch.float64),
}
"""How numbers that are no tensors are stored, by the end of their names."""


class NotStorable(Exception):
    """Raised when an optimizer's state holds what no file of tensors can."""


def to_bytes(optimizer: Optimizer) -> bytes | None:
    """Return the state as a safetensors file of `<parameter's index>.<name>`, or None without state (plain SGD).

    A number that is no tensor has its type behind its name: `3.n_iter=int`.

    Raises:
        NotStorable: it is more than tensors and numbers for each parameter.
    """
    indices: dict[Any, int] = {parameter: index for index, parameter in enumerate(parameters_of(optimizer))}
    named: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        if parameter not in indices:
            raise NotStorable("it keeps more than one state for each parameter")
        for name, value in state.items():
            if value is not None:
                stored, tensor = _stored(name, value)
                named[f"{indices[parameter]}.{stored}"] = tensor
    return tensors.to_bytes(named) if named else None


def load(optimizer: Optimizer, payload: Content) -> None:
    """Load a stored state. The optimizer continues bit for bit as if the state had never been stored.

    Args:
        optimizer: a new optimizer of the same kind, over parameters of the same shapes.
        payload: a result of `to_bytes`.

    Raises:
        TrainingFailed: the state belongs to another optimizer or another model; the optimizer is unchanged.
    """
    # Not `Optimizer.load_state_dict`: it casts every value to its parameter's dtype, and copies everything twice.
    parameters = list(parameters_of(optimizer))
    states = _decode(payload, len(parameters))
    if expected := _expected(optimizer):
        for index, state in states.items():
            _check(index, parameters[index], state, expected)
    is_on_device = bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))
    for index, state in states.items():
        parameter = parameters[index]
        # Moments live on their parameter's device; counters on the CPU, unless the optimizer is fused.
        optimizer.state[parameter] = {
            name: value.to(parameter.device)
            if isinstance(value, Tensor) and (is_on_device or name not in _COUNTERS)
            else value
            for name, value in state.items()
        }


def _stored(name: str, value: object) -> tuple[str, Tensor]:
    """Return the name and the tensor that stand for a value in the file."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_complex():
            raise NotStorable(f"{name} is a {value.layout} tensor of {value.dtype}")
        return name, value
    for kind, (type_, dtype) in _NUMBERS.items():
        if type(value) is type_:
            return f"{name}={kind}", torch.tensor(value, dtype=dtype)
    raise NotStorable(f"{name} is a {type(value).__name__}")


def _decode(payload: Content, count: int) -> dict[int, dict[str, Any]]:
    """Return the stored values by parameter index and name."""
    try:
        named = tensors.from_bytes(payload)
    except TrainingFailed as exc:
        raise TrainingFailed(f"optimizer state is {exc.sentence}") from exc
    states: dict[int, dict[str, Any]] = {}
    for full_name, value in named.items():
        index, _, stored = full_name.partition(".")
        if not (index.isdecimal() and int(index) < count):
            raise TrainingFailed(f"{full_name} is of none of the {count} trained parameters")
        name, _, kind = stored.rpartition("=")
        states.setdefault(int(index), {})[name or stored] = value.item() if name and kind in _NUMBERS else value
    return states


def _expected(optimizer: Optimizer) -> frozenset[str]:
    """Return what the paper's optimizers keep for each parameter; empty: not known."""
    settings = optimizer.defaults
    if type(optimizer) is SGD:
        return frozenset({"momentum_buffer"})
    if type(optimizer) is NAdam:
        return frozenset({"exp_avg", "exp_avg_sq", "step", "mu_product"})
    if type(optimizer) is Adam:
        largest = {"max_exp_avg_sq"} if settings.get("amsgrad") else set()
        return frozenset({"exp_avg", "exp_avg_sq", "step", *largest})
    return frozenset()


def _check(index: int, parameter: nn.Parameter, state: Mapping[str, Any], expected: frozenset[str]) -> None:
    if state.keys() != expected:
        raise TrainingFailed(f"parameter {index} has {sorted(state)}, this optimizer keeps {sorted(expected)}")
    for name, value in state.items():
        shape = torch.Size() if name in _COUNTERS else parameter.shape
        dtype = torch.float32 if name in _COUNTERS else parameter.dtype
        if (value.shape, value.dtype) != (shape, dtype):
            actual = f"{value.dtype} {tuple(value.shape)}"
            raise TrainingFailed(f"{index}.{name} is {actual} instead of {dtype} {tuple(shape)}")
