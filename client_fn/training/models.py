"""The models: the two of the paper (section 4.1), and any class of the user's.

Every model takes a batch of samples and returns logits of shape (samples, classes).
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


# torch's random number generator belongs to the whole process: two threads that build models at once would mix their
# initial weights up.
_rng_lock: Final = threading.Lock()

BUILT_IN: Final[dict[str, type[nn.Module]]] = {"nn": NN, "cnn": CNN}


def build(model: Model, *, seed: int) -> nn.Module:
    """Build the module that a job's model section describes.

    The seed alone decides the initial weights, and torch's random number generator is left unchanged. A user's class
    keeps the initial weights that its constructor sets.

    Args:
        model: the job's model section.
        seed: for the initial weights.

    Raises:
        BadModel: the class can't be imported or constructed, is not a torch module, or has lazy layers.
    """
    class_ = BUILT_IN.get(model.type) or _import_class(model.type)
    with _rng_lock, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            module = class_(**model.args)
        except Exception as exc:  # a user's class may raise any error
            remedy = f"model.args are those of {class_.__name__}{inspect.signature(class_)}"
            raise _bad(model.type, f"{type(exc).__name__}: {exc}", remedy) from exc
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise _bad(model.type, f"the shape of {name} is open until it sees data", "use no lazy layers")
    return module


def key(model: Model) -> bytes:
    """Return a cache key, equal for equal model sections whatever the order of their arguments."""
    return msgspec.json.encode(model, order="deterministic")


def _init_glorot(module: nn.Module) -> None:
    """Initialise as Keras does by default, and so the paper: Glorot and Bengio, 2010, equation 16; zero biases."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter)


def _import_class(path: str) -> type[nn.Module]:
    module_name, _, class_name = path.partition(":")
    try:
        class_ = getattr(importlib.import_module(module_name), class_name)
    except Exception as exc:  # a user's module may raise any error
        raise _bad(path, f"{type(exc).__name__}: {exc}", "it must be importable where the function runs") from exc
    if not (isinstance(class_, type) and issubclass(class_, nn.Module)):
        raise _bad(path, "is no class of torch.nn.Module", "name one as 'package.module:Class'")
    return class_


def _bad(path: str, reason: str, remedy: str) -> BadModel:
    return BadModel(f"model {path!r}: {reason}; {remedy}", type_=path)
