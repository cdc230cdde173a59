"""Says what is wrong when model and samples do not fit, in a sentence that names what the user can change."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from client_fn.errors import ClientError, TrainingFailed
from client_fn.training import batches
from client_fn.training.batches import Data
from client_fn.training.tracebacks import explain

if TYPE_CHECKING:
    from client_fn.training.context import Context
    from client_fn.training.learner import Learner

_ONE_SAMPLE = "Expected more than 1 value per channel"
_BEYOND = ("is out of bounds", "device-side assert")
_IGNORED = -100
"""The label that torch's cross-entropy leaves out."""


@contextlib.contextmanager
def explaining(learner: "Learner", model: Any, data: Any, context: "Context") -> Iterator[None]:
    """Map the errors of the user's code in the block; most mean that the model and its samples do not fit.

    Args:
        learner: the learner.
        model: what it trains.
        data: its samples.
        context: knows the batch.

    Raises:
        TrainingFailed: the code raised an error; the sentence names the shapes and dtypes of the samples.
    """
    try:
        yield
    except ClientError:
        raise
    except (Exception, SystemExit) as exc:  # a user's model may raise any error, and may even exit
        cause = explain(exc)
        if context.batch is None:
            raise TrainingFailed("the learner failed before its first batch", **cause._asdict()) from exc
        if not _named(context.batch):
            raise TrainingFailed("the learner failed on a batch without tensors", **cause._asdict()) from exc
        samples = f"samples of {_shapes(context.batch)}"
        hint = _hint(cause.text, learner, model, data, context)
        sentence = f"{hint} ({samples})" if hint else f"the model failed on {samples}, or on their labels"
        raise TrainingFailed(sentence, **cause._asdict()) from exc


@contextlib.contextmanager
def calling(method: str) -> Iterator[None]:
    """Map the errors of a learner's method that knows no batch.

    Args:
        method: for the sentence, such as `data()`.

    Raises:
        TrainingFailed: it raised an error.
    """
    try:
        yield
    except ClientError:
        raise
    except (Exception, SystemExit) as exc:  # a user's learner may raise any error, and may even exit
        raise TrainingFailed(f"the learner's {method} failed", **explain(exc)._asdict()) from exc


def not_finite(loss: float, epoch: int, data: Data, context: "Context") -> TrainingFailed:
    """Return the error for a loss that is no number any more. It looks for the reason in the data.

    Args:
        loss: the mean loss of an epoch.
        epoch: its number, from 1.
        data: the samples.
        context: draws the batches.
    """
    bad, seen, ignored = 0, 0, True
    names: set[str] = set()
    for batch in context.batches(data):
        parts = _named(batch)
        rows = [(name, ~torch.isfinite(part)) for name, part in parts if part.is_floating_point() and part.dim()]
        names |= {name for name, row in rows if bool(row.any())}
        in_rows = [row.flatten(1).any(1) if row.dim() > 1 else row for _, row in rows]
        bad += int(torch.stack(in_rows).any(0).sum()) if rows else 0
        seen += batches.size(batch)
        ignored = ignored and bool(parts) and bool((parts[-1][1] == _IGNORED).all())
    begin = f"the loss is {loss} after local epoch {epoch}"
    if names:
        reason = f"{' and '.join(sorted(names))} holds NaN or infinity in {bad} of {seen} samples"
        return TrainingFailed(f"{begin}: {reason}; fill in or leave out missing values")
    if ignored:
        return TrainingFailed(f"{begin}: all labels are {_IGNORED}, which cross_entropy leaves out")
    return TrainingFailed(f"{begin}: try a smaller learning rate")


def _hint(text: str, learner: "Learner", model: Any, data: Any, context: "Context") -> str:
    if _ONE_SAMPLE in text:
        return (
            "batch normalisation needs two samples in a batch, and this one has one: set training.batch_size to 2 or "
            "more. A client with a single sample can't train such a model: use GroupNorm or LayerNorm, or leave it out"
        )
    if any(part in text for part in _BEYOND):
        return _about_labels(learner, model, data, context)
    inputs = _named(context.batch)[:-1]
    if isinstance(model, nn.Module) and any(part.dtype == torch.uint8 for _, part in inputs):
        return "they are whole numbers from 0 to 255: let the model begin with x.float() / 255, or store floats"
    kind = type(_last(context.batch)).__name__
    if context.batch is not None and not isinstance(_last(context.batch), (Tensor, Mapping)):
        return f"the targets are a {kind}, and no tensor: give numbers, labels from 0"
    return ""


def _about_labels(learner: "Learner", model: Any, data: Any, context: "Context") -> str:
    """Return the range of the labels beside the one that the model can answer."""
    values: list[Tensor] = []
    with contextlib.suppress(Exception):  # after an error, a GPU may fail for good
        samples = batches.of(data, learner.collate)
        if isinstance(samples, batches.TensorSamples):
            values = [list(samples.named.values())[-1] if batches.TARGET not in samples.named else samples.named["y"]]
        else:
            values = [part for part in batches.tensors_in(_last(context.batch)) if part.dim()]
    known = [part[part != _IGNORED] for part in values]
    if not known or not known[0].numel():
        return "labels must be whole numbers from 0 to the number of the model's outputs, less one"
    sentence = f"labels go from {int(known[0].min())} to {int(known[0].max())}"
    with contextlib.suppress(Exception), torch.no_grad():
        outputs, _ = learner.predict(model, context.batch)
        count = outputs.shape[1]
        return f"{sentence}, and the model has {count} outputs: use labels from 0 to {count - 1}, or more outputs"
    return f"{sentence}, and must be from 0 to the number of the model's outputs, less one"


def _named(batch: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of a batch with names for people; the targets come last."""
    if isinstance(batch, Mapping):
        parts = [(str(name), part) for name, part in batch.items() if name != batches.TARGET]
        parts += [(batches.TARGET, batch[batches.TARGET])] if batches.TARGET in batch else []
    elif isinstance(batch, (tuple, list)):
        inputs = [f"x{number}" for number in range(1, len(batch))] if len(batch) > 2 else ["x"]  # noqa: PLR2004 (x, y)
        parts = list(zip([*inputs, batches.TARGET] if len(batch) > 1 else ["x"], batch))  # noqa: B905 (equally long)
    else:
        parts = [("x", batch)]
    return [(name, tensor) for name, part in parts for tensor in batches.tensors_in(part)]


def _last(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return batch.get(batches.TARGET)
    return batch[-1] if isinstance(batch, (tuple, list)) and batch else batch


def _shapes(batch: Any) -> str:
    """Name the shapes and dtypes of one sample's inputs; the batch has some."""
    inputs = _named(batch)
    inputs = inputs[:-1] or inputs
    texts = [f"shape ({', '.join(map(str, part.shape[1:]))}), {part.dtype}" for _, part in inputs]
    if len(texts) < 2:  # noqa: PLR2004 (one needs no name)
        return texts[0]
    return " and ".join(f"{name} of {text}" for (name, _), text in zip(inputs, texts))  # noqa: B905 (equally long)
