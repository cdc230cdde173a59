"""A model's tensors as a learner gives and takes them, whatever kind of model it is."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client_fn.errors import BadModel
from client_fn.training import tensors
from client_fn.training.learner import Learner

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
DTYPES = FLOATS + INTEGERS
"""The dtypes that a message can carry."""


class ModelTensors:
    """The tensors of a learner's model.

    Args:
        learner: gives and takes arrays, if the model is no torch module.
        model: the model.

    Raises:
        BadModel: the learner can't give its tensors.
    """

    def __init__(self, learner: Learner, model: Any) -> None:
        self._learner = learner
        self.model = model
        has_own = learner._has_own("arrays") or learner._has_own("load")
        self.module: nn.Module | None = model if isinstance(model, nn.Module) and not has_own else None

    def all(self) -> dict[str, Tensor]:
        """Return all tensors by name.

        Raises:
            BadModel: one has a dtype that no message can carry.
        """
        if self.module is not None:
            named = tensors.tensors_of(self.module)
        else:
            named = {name: _tensor(name, array) for name, array in self._learner.arrays(self.model).items()}
        for name, tensor in named.items():
            if tensor.dtype not in DTYPES:
                known = ", ".join(map(str, DTYPES))
                hint = "; keep torch.view_as_real() of it" if tensor.is_complex() else ""
                raise BadModel(f"{name} has dtype {tensor.dtype}, known are {known}{hint}")
        return named

    def load(self, named: Mapping[str, Tensor]) -> None:
        """Overwrite all tensors.

        Args:
            named: of the names, shapes and dtypes of `all()`.

        Raises:
            BadModel: a name, shape or dtype differs.
        """
        if self.module is not None:
            tensors.load(self.module, named)
            return
        if differences := tensors.compare(self.all(), named):
            raise BadModel(f"not this model's tensors; {differences}")
        # Copies, because the learner may keep them and train in place, and the update is the difference from `named`.
        self._learner.load(self.model, {name: tensor.numpy().copy() for name, tensor in named.items()})

    def frozen(self, base: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Return the names of the tensors that are in no update: nothing trains them, or they can't be averaged.

        A tensor with a value that is not finite, such as an attention mask of infinities, stays as it is.

        Args:
            base: all tensors of the round's model.
        """
        if self.module is None:
            untrained: tuple[str, ...] = ()
            constants: Iterable[str] = base
        else:
            untrained, constants = tensors.frozen_names(self.module), self.buffers()
        infinite = {name for name in constants if name in base and not _is_finite(base[name])}
        return (*untrained, *(name for name in base if name in infinite))

    def buffers(self) -> tuple[str, ...]:
        """Return the names of the tensors that are statistics, and not weights."""
        return () if self.module is None else tuple(name for name, _ in self.module.named_buffers())


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _tensor(name: str, array: Any) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(np.shape(array))
    except TypeError as exc:
        raise BadModel(f"arrays() returns {name} with dtype {np.asarray(array).dtype}: give numbers") from exc
