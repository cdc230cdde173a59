"""Writes a model for programs without FedKeeper: its `state_dict` for torch, or ONNX."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from client_fn.errors import BadModel
from client_fn.training.learner import Learner
from client_fn.training.tracebacks import explain

NEEDED = "onnx", "onnxscript"
"""Packages that torch's exporter imports: https://docs.pytorch.org/docs/stable/onnx.html"""


def state_dict(model: Any) -> bytes:
    """Return what `torch.save(model.state_dict())` writes, which `torch.load(..., weights_only=True)` reads.

    Raises:
        BadModel: the model is no torch module, or its state has what such a file can't have.
    """
    file = io.BytesIO()
    torch.save(_module(model).state_dict(), file)
    try:
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as exc:  # a user's module may put anything into its state
        reason = "its state_dict has what torch.load(weights_only=True) refuses"
        raise BadModel(reason, **explain(exc)._asdict()) from exc
    return file.getvalue()


def onnx(learner: Learner, model: Any, first_batch: Callable[[], Any]) -> bytes:
    """Return a model as ONNX, for batches of any size.

    Args:
        learner: calls the model.
        model: the model; it is used as for an evaluation.
        first_batch: returns a batch of samples, or None if there are none. It is not needed if the model has an
            attribute `example_input`: a tensor, or a tuple or dict of the arguments of `forward`.

    Raises:
        BadModel: the model is no torch module, ONNX can't express it, there is no batch, or a package is missing.
    """
    module = _module(model).eval()
    try:
        arguments, named = _example(learner, module, first_batch)
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module, arguments, kwargs=named, dynamo=True, verbose=False, dynamic_shapes=_any_batch(arguments, named)
            )
    except ModuleNotFoundError as exc:
        if exc.name not in NEEDED:
            raise
        raise BadModel(f"{exc.name} is missing: pip install {' '.join(NEEDED)}") from exc
    except BadModel:
        raise
    except Exception as exc:  # whatever torch or the user's module raises
        raise BadModel("ONNX can't express it", **explain(exc)._asdict()) from exc
    if program is None:
        raise BadModel("ONNX can't express it")
    content: bytes = program.model_proto.SerializeToString()
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from telling what it leaves out and what it will change one day."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise BadModel(f"it is a {type(model).__name__}, and no torch module")
    return model


def _example(
    learner: Learner, module: nn.Module, first_batch: Callable[[], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments of the module's `forward`."""
    example = getattr(module, "example_input", None)
    if isinstance(example, dict):
        return (), example
    if example is not None:
        return tuple(example) if isinstance(example, (tuple, list)) else (example,), {}
    batch = first_batch()
    if batch is None:
        raise BadModel(
            "ONNX needs an example of the model's input, and there is none here: give the model an attribute "
            "'example_input' (a batch of any values, as forward() takes it), or the job evaluation.data"
        )
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((arguments, named))

    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            learner.predict(module, batch)
    finally:
        hook.remove()
    if not seen:
        raise BadModel("the learner's predict() does not call the model")
    return seen[0]


def _any_batch(arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Return which sizes may differ: the first of each tensor, if the model allows it."""

    def shape(value: Any) -> Any:
        if isinstance(value, Tensor):
            return {0: torch.export.Dim.AUTO} if value.dim() else {}
        return None

    if named:
        # torch asks for one entry for each argument by name, and positions have none.
        return None if arguments else {name: shape(value) for name, value in named.items()}
    return tuple(shape(value) for value in arguments)
