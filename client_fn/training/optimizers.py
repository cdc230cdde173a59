"""The optimizers of the paper (section 4.2), and the conversion of their state to and from safetensors files.

Milliseconds for 60 steps of batch 10 on one thread (torch 2.13, best of five runs for `nn`, of two for `cnn`):

                 fused  foreach  loop
    adam    nn      47       72    94
            cnn    356      467   496
    sgd     nn      36       35    34
            cnn    323      317   329
    nadam   nn       -       79    87
            cnn      -      446   524
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, NAdam, Optimizer

from client_fn.errors import TrainingFailed
from client_fn.training import tensors

EPSILON: Final = 1e-8
HALF_EPSILON: Final = 1e-4
"""In float16, 1e-8 is 0, so a gradient of 0 would give an update of 0/0; so would any below 7e-3, whose square is 0."""

_MOMENTS: Final = frozenset({"exp_avg", "exp_avg_sq"})
_STATE: Final[dict[type[Optimizer], frozenset[str]]] = {
    SGD: frozenset(),
    Adam: _MOMENTS | {"step"},
    NAdam: _MOMENTS | {"step", "mu_product"},
}


class Spec(Protocol):
    """How to train: a job's training section, or an order's."""

    @property
    def optimizer(self) -> str:
        """`sgd`, `adam` or `nadam`."""

    @property
    def rate(self) -> float | None:
        """The learning rate; None: the optimizer's default."""


def make(training: Spec, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return the job's optimizer over the parameters that are not frozen.

    Adam is torch's fused implementation if all parameters are floating-point.

    Args:
        training: the job's training section.
        parameters: of the module to train.

    Raises:
        TrainingFailed: there is no parameter to train.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise TrainingFailed("the model has no parameter to train: all are frozen, or there is none")
    rate = 1e-3 if training.rate is None else training.rate
    if training.optimizer == "sgd":
        return SGD(trained, lr=rate, foreach=True)
    if training.optimizer == "adam":
        fused = all(parameter.is_floating_point() for parameter in trained)
        return Adam(_group_by_epsilon(trained), lr=rate, fused=fused)
    if training.optimizer == "nadam":
        return NAdam(_group_by_epsilon(trained), lr=rate, foreach=True)
    raise TrainingFailed(f"optimizer {training.optimizer!r} is not known to this version")


def state_to_bytes(optimizer: Optimizer) -> bytes | None:
    """Return the state as a safetensors file of `<parameter's index>.<name>`, or None without state (plain SGD)."""
    named = {
        f"{index}.{name}": value
        for index, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }
    return tensors.to_bytes(named) if named else None


def load_state(optimizer: Optimizer, payload: bytes) -> None:
    """Load a stored state. The optimizer continues bit for bit as if the state had never been stored.

    Args:
        optimizer: a new optimizer of the same kind, over parameters of the same shapes.
        payload: a result of `state_to_bytes`.

    Raises:
        TrainingFailed: the state belongs to another optimizer or another model; the optimizer is unchanged.
    """
    # Not `Optimizer.load_state_dict`: it casts every value to its parameter's dtype, and copies everything twice.
    parameters = list(_parameters(optimizer))
    states = _decode_state(payload, len(parameters))
    for index, state in states.items():
        _check_state(index, parameters[index], state, _STATE[type(optimizer)])
    is_fused = optimizer.defaults.get("fused")
    for index, state in states.items():
        parameter = parameters[index]
        # Moments live on their parameter's device; counters on the CPU, unless the optimizer is fused.
        optimizer.state[parameter] = {
            name: value.to(parameter.device) if name in _MOMENTS or is_fused else value for name, value in state.items()
        }


def _group_by_epsilon(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    half = [parameter for parameter in parameters if parameter.dtype == torch.float16]
    rest = [parameter for parameter in parameters if parameter.dtype != torch.float16]
    groups = ({"params": rest, "eps": EPSILON}, {"params": half, "eps": HALF_EPSILON})
    return [group for group in groups if group["params"]]


def _parameters(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _decode_state(payload: bytes, count: int) -> dict[int, dict[str, Tensor]]:
    """Return the stored tensors by parameter index and name."""
    try:
        named = tensors.from_bytes(payload)
    except TrainingFailed as exc:
        raise TrainingFailed(f"optimizer state is {exc.sentence}") from exc
    states: dict[int, dict[str, Tensor]] = {}
    for full_name, value in named.items():
        index, _, name = full_name.partition(".")
        if not (index.isdecimal() and int(index) < count):
            raise TrainingFailed(f"{full_name} is of none of the {count} trained parameters")
        states.setdefault(int(index), {})[name] = value
    return states


def _check_state(index: int, parameter: nn.Parameter, state: dict[str, Tensor], names: frozenset[str]) -> None:
    if state.keys() != names:
        raise TrainingFailed(f"parameter {index} has {sorted(state)}, this optimizer keeps {sorted(names)}")
    for name, value in state.items():
        shape = parameter.shape if name in _MOMENTS else torch.Size()
        dtype = parameter.dtype if name in _MOMENTS else torch.float32
        if (value.shape, value.dtype) != (shape, dtype):
            actual = f"{value.dtype} {tuple(value.shape)}"
            raise TrainingFailed(f"{index}.{name} is {actual} instead of {dtype} {tuple(shape)}")
