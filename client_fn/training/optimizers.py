"""The optimizers of the paper (section 4.2), and their state as safetensors bytes.

Milliseconds for 60 steps of batch 10 on one thread (torch 2.13, the best of five for `nn`, of two for `cnn`):

                 fused  foreach  loop
    adam    nn      47       72    94
            cnn    356      467   496
    sgd     nn      36       35    34
            cnn    323      317   329
    nadam   nn       -       79    87
            cnn      -      446   524
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, NAdam, Optimizer

from broker.messages.errors import BadTensors
from broker.messages.job import Training
from client_fn.errors import BadState, TrainingFailed
from client_fn.training import tensors

EPSILON: Final = 1e-8
HALF_EPSILON: Final = 1e-4
"""In float16 1e-8 is 0, and an update 0/0 where a gradient is 0; gradients below 7e-3 have a square of 0 too."""

_MOMENTS: Final = frozenset({"exp_avg", "exp_avg_sq"})
_STATE: Final[dict[type[Optimizer], frozenset[str]]] = {
    SGD: frozenset(),
    Adam: _MOMENTS | {"step"},
    NAdam: _MOMENTS | {"step", "mu_product"},
}


def make(training: Training, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer that a job asks for, over the parameters that are not frozen.

    Adam is torch's fused one where the parameters allow it (all floating point).

    Raises:
        TrainingFailed: no parameter is left to train.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise TrainingFailed("the model has no parameter to train: all are frozen, or there is none")
    match training.optimizer:
        case "sgd":
            return SGD(trained, lr=training.rate, foreach=True)
        case "adam":
            fused = all(parameter.is_floating_point() for parameter in trained)
            return Adam(_groups(trained), lr=training.rate, fused=fused)
        case "nadam":
            return NAdam(_groups(trained), lr=training.rate, foreach=True)


def state_to_bytes(optimizer: Optimizer) -> bytes | None:
    """The state as a safetensors file of `<parameter's index>.<name>`; None where there is none (plain SGD)."""
    named = {
        f"{index}.{name}": value
        for index, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }
    return tensors.to_bytes(named) if named else None


def load_state(optimizer: Optimizer, payload: bytes) -> None:
    """Go on where the optimizer that the bytes came from stood: bit for bit as if it had never been stored.

    Raises:
        BadState: it is the state of another optimizer, or of another model's; this one is unchanged.
    """
    # `Optimizer.load_state_dict` would cast every value to its parameter's dtype, and copy all of it twice.
    parameters = list(_parameters(optimizer))
    states = _by_parameter(payload, len(parameters))
    for index, state in states.items():
        _check(index, parameters[index], state, _STATE[type(optimizer)])
    for index, state in states.items():
        parameter = parameters[index]
        optimizer.state[parameter] = {name: _placed(value, name, parameter, optimizer) for name, value in state.items()}


def _placed(value: Tensor, name: str, parameter: nn.Parameter, optimizer: Optimizer) -> Tensor:
    """Where the optimizer looks for it: counters are on the CPU, but for a fused one's."""
    return value.to(parameter.device) if name in _MOMENTS or optimizer.defaults.get("fused") else value


def _groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    half = [parameter for parameter in parameters if parameter.dtype == torch.float16]
    rest = [parameter for parameter in parameters if parameter.dtype != torch.float16]
    groups = ({"params": rest, "eps": EPSILON}, {"params": half, "eps": HALF_EPSILON})
    return [group for group in groups if group["params"]]


def _parameters(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _by_parameter(payload: bytes, count: int) -> dict[int, dict[str, Tensor]]:
    try:
        named = tensors.from_bytes(payload)
    except BadTensors as exc:
        raise BadState(f"optimizer state is {exc}") from exc
    states: dict[int, dict[str, Tensor]] = {}
    for full_name, value in named.items():
        index, _, name = full_name.partition(".")
        if not (index.isdecimal() and int(index) < count):
            raise BadState(f"{full_name} is of none of the {count} trained parameters")
        states.setdefault(int(index), {})[name] = value
    return states


def _check(index: int, parameter: nn.Parameter, state: dict[str, Tensor], names: frozenset[str]) -> None:
    if state.keys() != names:
        raise BadState(f"parameter {index} has {sorted(state)}, this optimizer keeps {sorted(names)}")
    for name, value in state.items():
        shape = parameter.shape if name in _MOMENTS else torch.Size()
        dtype = parameter.dtype if name in _MOMENTS else torch.float32
        if (value.shape, value.dtype) != (shape, dtype):
            got = f"{value.dtype} {tuple(value.shape)}"
            raise BadState(f"{index}.{name} is {got} instead of {dtype} {tuple(shape)}")
