"""Lazy modules: layers whose shapes are open until they have seen a batch."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from client_fn.errors import BadModel
from client_fn.training.context import Context
from client_fn.training.orders import Training
from client_fn.training.tracebacks import explain

if TYPE_CHECKING:
    from client_fn.training.learner import Learner


def initialise(learner: "Learner", model: Any, data: Callable[[], Any]) -> None:
    """Let a module's lazy layers see one batch: the model's `example_input`, or else the first of the data.

    `example_input` is a tensor, or a tuple or dict of the arguments of `forward`.

    Args:
        learner: calls the model.
        model: changed in place; anything but a module with lazy layers stays as it is.
        data: returns samples, or None if there are none.

    Raises:
        BadModel: there is neither of them, or layers stay open.
    """
    if not isinstance(model, nn.Module) or not _open(model):
        return
    first, is_training = _open(model)[0], model.training
    model.eval()
    try:
        with torch.no_grad():
            _see(learner, model, data, first)
    except BadModel:
        raise
    except (Exception, SystemExit) as exc:  # a user's model may raise any error, and may even exit
        raise BadModel(
            f"the lazy layer of {first} can't be initialised with a batch", **explain(exc)._asdict()
        ) from exc
    model.train(is_training)
    if left := _open(model):
        raise BadModel(f"the shape of {left[0]} is still open after a batch: the model does not use it")


def _see(learner: "Learner", model: nn.Module, data: Callable[[], Any], first: str) -> None:
    example = getattr(model, "example_input", None)
    if isinstance(example, Mapping):
        model(**example)
    elif example is not None:
        model(*example) if isinstance(example, (tuple, list)) else model(example)
    else:
        samples = data()
        if samples is None:
            raise BadModel(
                f"the shape of {first} is open until it sees data, and there is none here: give the model an attribute "
                "'example_input' (a batch of any values, as forward() takes it), or use no lazy layers"
            )
        learner.predict(model, next(Context(learner, model, Training(batch_size=2)).batches(samples)))


def _open(model: nn.Module) -> list[str]:
    """Return the names of the parameters and buffers whose shape is open."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in tensors if is_lazy(tensor)]
