"""The models: the two of the paper (section 4.1), and any class of the user's.

All take a batch of samples first and return logits of shape (samples, classes).
"""

import importlib
import inspect
import threading
from typing import Final

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from broker.messages.job import Model
from client_fn.errors import BadModel


class NN(nn.Module):
    """One hidden layer: 784-500-10 has 397,510 parameters.

    Args:
        input_size: values per sample; samples of any shape are flattened.
        hidden: width of the hidden layer.
        classes: how many labels there are.
    """

    def __init__(self, input_size: int = 784, hidden: int = 500, classes: int = 10) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_size, hidden)
        self.out = nn.Linear(hidden, classes)
        _glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a float batch (N, ...)."""
        return self.out(functional.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


class CNN(nn.Module):
    """Two 5x5 convolutions and a dense layer: 582,026 parameters for MNIST.

    Args:
        channels: colours of an image.
        size: height and width of an image in pixels.
        classes: how many labels there are.

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
        _glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a float batch (N, H, W) or (N, C, H, W)."""
        if x.dim() == 3:  # noqa: PLR2004 (an image without colours)
            x = x.unsqueeze(1)
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        x = functional.max_pool2d(functional.relu(self.second(x)), 2)
        return self.out(functional.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


# torch's random numbers belong to the whole process: two threads that draw at once would mix their weights up.
_drawing: Final = threading.Lock()

BUILT_IN: Final[dict[str, type[nn.Module]]] = {"nn": NN, "cnn": CNN}


def build(model: Model, *, seed: int) -> nn.Module:
    """Make the module that a job's model section describes.

    The same seed gives the same initial weights, whatever was drawn from torch's random numbers before; those
    are left as they were. A class of the user's keeps the initial weights that its constructor gives it.

    Raises:
        BadModel: the class can't be imported or constructed, is no torch module, or its shapes are open.
    """
    kind = BUILT_IN.get(model.type) or _imported(model.type)
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = _constructed(kind, model)
    _check_shapes(module, model.type)
    return module


def key(model: Model) -> bytes:
    """Equal for models that `build` makes alike, different for all others."""
    return msgspec.json.encode(model, order="deterministic")


def _glorot(module: nn.Module) -> None:
    """Glorot and Bengio, 2010, equation 16; biases start at zero. Keras' default, so the paper's."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter)


def _imported(path: str) -> type[nn.Module]:
    name, _, attribute = path.partition(":")
    try:
        kind = getattr(importlib.import_module(name), attribute)
    except Exception as exc:  # the module is the user's: its code may raise anything
        raise BadModel(path, _shown(exc), "it must be importable where the function runs") from exc
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise BadModel(path, "is no class of torch.nn.Module", "name one as 'package.module:Class'")
    return kind


def _constructed(kind: type[nn.Module], model: Model) -> nn.Module:
    try:
        return kind(**model.args)
    except Exception as exc:  # the class may be the user's: its code may raise anything
        raise BadModel(model.type, _shown(exc), f"model.args are those of {_signature(kind)}") from exc


def _check_shapes(module: nn.Module, path: str) -> None:
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise BadModel(path, f"the shape of {name} is open until it sees data", "use no lazy layers")


def _shown(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"


def _signature(kind: type[nn.Module]) -> str:
    return f"{kind.__name__}{inspect.signature(kind)}"
