"""The models: the two of the paper (section 4.1), and any class or function of the user's that makes one.

Every model takes a batch of samples and returns logits of shape (samples, classes).
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Final, Protocol

from torch import Tensor, nn
from torch.nn import functional

from client_fn.errors import BadModel
from client_fn.training.randomness import seeded
from client_fn.training.tracebacks import explain


class Spec(Protocol):
    """What a model is: a job's model section, or an order's."""

    @property
    def type(self) -> str:
        """`nn`, `cnn` or `package.module:Name`."""

    @property
    def args(self) -> dict[str, Any]:
        """Keyword arguments of the class or function."""


class NN(nn.Module):
    """A network with one hidden layer: 784-500-10 has 397,510 parameters.

    Args:
        input_size: number of values per sample; samples of any shape are flattened.
        hidden: width of the hidden layer.
        classes: number of labels.
    """

    def __init__(self, input_size: int = 784, hidden: int = 500, classes: int = 10) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_size, hidden)
        self.out = nn.Linear(hidden, classes)
        _init_glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a float batch (N, ...)."""
        return self.out(functional.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


class CNN(nn.Module):
    """A network with two 5x5 convolutions and a dense layer: 582,026 parameters for MNIST.

    Args:
        channels: number of colour channels of an image.
        size: height and width of an image in pixels.
        classes: number of labels.

    Raises:
        ValueError: the images are too small for two convolutions and poolings.
    """

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10) -> None:
        super().__init__()
        side = ((size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"size is {size}, needs to be at least 16")
        self.first = nn.Conv2d(channels, 32, kernel_size=5)
        self.second = nn.Conv2d(32, 64, kernel_size=5)
        self.hidden = nn.Linear(64 * side * side, 512)
        self.out = nn.Linear(512, classes)
        _init_glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a float batch (N, H, W) or (N, C, H, W)."""
        if x.dim() == 3:  # noqa: PLR2004 (images without a channel dimension)
            x = x.unsqueeze(1)
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        x = functional.max_pool2d(functional.relu(self.second(x)), 2)
        return self.out(functional.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


BUILT_IN: Final[dict[str, type[nn.Module]]] = {"nn": NN, "cnn": CNN}

_DEFAULT_CHARACTERS: Final = 30

Maker = Callable[..., nn.Module]
"""A class of modules, or a function that returns one."""


def build(model: Spec, *, seed: int) -> nn.Module:
    """Build the module that a model's description names.

    The seed alone decides the random numbers of torch, numpy and `random`; all generators are left unchanged. A user's
    class keeps the initial weights that its constructor sets.

    Args:
        model: the description.
        seed: for the initial weights.

    Raises:
        BadModel: the module can't be imported or constructed, is no torch module, or has lazy layers.
    """
    make = find(model.type)
    with seeded(seed):
        try:
            module = make(**model.args)
        except (Exception, SystemExit) as exc:  # a user's class may raise any error, and may even exit
            remedy = f"model.args are those of {make.__name__}{_signature(make)}"
            raise _bad(model.type, f"it can't be constructed; {remedy}", exc) from exc
    if not isinstance(module, nn.Module):
        raise _bad(model.type, f"it returns a {type(module).__name__}, and no torch.nn.Module")
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise _bad(model.type, f"the shape of {name} is open until it sees data; use no lazy layers")
    return module


def find(path: str) -> Maker:
    """Return the class or function that makes a model. This imports the user's module.

    Args:
        path: `nn`, `cnn` or `package.module:Name`.

    Raises:
        BadModel: it can't be imported, is not there, or is neither a class of modules nor a function of that package.
    """
    if path in BUILT_IN:
        return BUILT_IN[path]
    module_name, _, name = path.partition(":")
    try:
        # Seeded, because a module may draw random numbers, and each trainer imports it anew.
        with seeded(0):
            make = getattr(importlib.import_module(module_name), name, None)
    except (Exception, SystemExit) as exc:  # a user's module may raise any error, and may even exit
        raise _bad(path, f"{module_name} can't be imported", exc) from exc
    if make is None:
        raise _bad(path, f"{module_name} has no {name}")
    if isinstance(make, type) and issubclass(make, nn.Module):
        return make
    # Without this, a job could call anything that the user's module has imported, such as subprocess.run.
    if not (inspect.isfunction(make) and _package(str(make.__module__)) == _package(module_name)):
        raise _bad(path, "is neither a class of torch.nn.Module nor a function of that package that returns one")
    function: Maker = make
    return function


def _init_glorot(module: nn.Module) -> None:
    """Initialise as Keras does by default, and so the paper: Glorot and Bengio, 2010, equation 16; zero biases."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter)


def _package(module: str) -> str:
    return module.partition(".")[0]


class _Rest:
    """Stands for a default that is not shown."""

    def __repr__(self) -> str:
        return "..."


def _signature(make: Maker) -> str:
    """Return a maker's parameters. Only short defaults are shown, and no objects, whose text may hold data."""
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return "(...)"
    parameters = signature.parameters.values()
    shown = [each if _is_short(each.default) else each.replace(default=_Rest()) for each in parameters]
    return str(signature.replace(parameters=shown, return_annotation=inspect.Signature.empty))


def _is_short(default: object) -> bool:
    if default is None or default is inspect.Parameter.empty:
        return True
    return type(default) in {bool, int, float, str} and len(repr(default)) <= _DEFAULT_CHARACTERS


def _bad(path: str, sentence: str, exc: BaseException | None = None) -> BadModel:
    raised = explain(exc)._asdict() if exc is not None else {}
    return BadModel(f"model {path!r}: {sentence}", **raised)
