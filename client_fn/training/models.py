"""The models: the two of the paper (section 4.1), and any class or function of the user's that makes one.

Every model takes a batch of samples and returns logits of shape (samples, classes).
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from torch import Tensor, nn
from torch.nn import functional

from client_fn.errors import BadModel
from client_fn.training import names
from client_fn.training.randomness import seeded


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
        BadModel: the module can't be imported or constructed, or is no torch module.
    """
    find(model.type)  # imported before, because an import may draw random numbers
    with seeded(seed):
        return construct(model)


def construct(model: Spec) -> nn.Module:
    """Build a module as `build` does, with the generators as they are.

    Args:
        model: the description.

    Raises:
        BadModel: as `build`.
    """
    label = f"model {model.type!r}"
    module = names.construct(find(model.type), model.args, label, "model.args")
    if not isinstance(module, nn.Module):
        raise BadModel(f"{label}: it returns a {type(module).__name__}, and no torch.nn.Module")
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
    label = f"model {path!r}"
    make, is_of_package = names.find(path, label)
    if isinstance(make, type) and issubclass(make, nn.Module):
        return make
    # Without this, a job could call anything that the user's module has imported, such as subprocess.run.
    if isinstance(make, type) or not is_of_package:
        raise BadModel(
            f"{label}: is neither a class of torch.nn.Module nor a function of that package that returns one"
        )
    function: Maker = make
    return function


def _init_glorot(module: nn.Module) -> None:
    """Initialise as Keras does by default, and so the paper: Glorot and Bengio, 2010, equation 16; zero biases."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter)
