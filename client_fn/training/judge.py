"""Judges a model on the samples that a client holds out, and names the sums as an update carries them."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from client_fn.errors import TrainingFailed
from client_fn.training import evaluate
from client_fn.training.context import Context
from client_fn.training.learner import Learner

PREFIX: Final = "eval."
"""Begins the names of the sums in an update."""

MAX_BYTES: Final = 4 << 20
MAX_FLOAT_BYTES: Final = 256 << 10
"""What the server accepts of all sums, and of those that are no integers."""


class Judged(NamedTuple):
    """What a client found on its hold-out.

    Attributes:
        samples: number of samples that are held out.
        metrics: values of this client alone; those that its samples can't have are left out.
        sums: tensors `eval.<metric>.<state>` for an update.
        duration_s: how long it took.
    """

    samples: int
    metrics: dict[str, float]
    sums: dict[str, Tensor]
    duration_s: float

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of an answer."""
        return {"judged": self.samples, "evaluation": self.metrics}

    @property
    def seconds(self) -> dict[str, float]:
        """The duration by the step's name; none if nothing was judged."""
        return {"judge": self.duration_s} if self.samples else {}


NOTHING: Final = Judged(0, {}, {}, 0.0)
"""Of a client that holds nothing out."""


def loss(learner: Learner, model: Any, data: Any, context: Context) -> float:
    """Return a model's mean loss on samples. The model is left as it was.

    Args:
        learner: computes the loss.
        model: the model, on the context's device.
        data: the samples.
        context: draws the batches.

    Raises:
        TrainingFailed: model and samples do not fit, or the learner's evaluation measures no finite loss.
    """
    with context.scratch(), _kept(model):
        metrics = evaluate.evaluate(learner, model, data, context).metrics
    found = metrics.get(evaluate.LOSS, math.nan)
    if not math.isfinite(found):
        raise TrainingFailed("the strategy needs the loss of the round's model, and evaluate() measures no finite one")
    return found


def judge(learner: Learner, model: Any, held: Any, context: Context) -> Judged:
    """Judge a model. It is left as it was.

    Args:
        learner: says what is measured.
        model: the model, on the context's device.
        held: the samples that are held out; None: there are none.
        context: draws the batches.

    Raises:
        TrainingFailed: model and samples do not fit, or the sums are larger than an update may carry.
        BadModel: the learner returns something that is no metric.
    """
    if held is None:
        return NOTHING
    begin_s = time.perf_counter()
    with context.scratch(), _kept(model):
        samples, metrics, sums = evaluate.evaluate(learner, model, held, context)
    broken = {name.partition(".")[0] for name, state in sums.items() if not _is_finite(state)}
    sums = {name: state for name, state in sums.items() if name.partition(".")[0] not in broken}
    _check_size(sums)
    own = {name: value for name, value in metrics.items() if math.isfinite(value) and name not in broken}
    named = {f"{PREFIX}{name}": state for name, state in sums.items()}
    return Judged(samples, own, named, time.perf_counter() - begin_s)


def _is_finite(state: Tensor) -> bool:
    return not state.is_floating_point() or bool(torch.isfinite(state).all())


def _check_size(sums: dict[str, Tensor]) -> None:
    sizes: dict[str, int] = {}
    floats = 0
    for name, state in sums.items():
        metric, size = name.partition(".")[0], state.numel() * state.element_size()
        sizes[metric] = sizes.get(metric, 0) + size
        floats += size * state.is_floating_point()
    if sum(sizes.values()) > MAX_BYTES or floats > MAX_FLOAT_BYTES:
        largest = max(sizes, key=lambda metric: sizes[metric])
        raise TrainingFailed(
            f"evaluation.metrics: the sums take {sum(sizes.values()):,} bytes, {floats:,} of them of no integers, the "
            f"most for {largest!r}; at most {MAX_BYTES:,} and {MAX_FLOAT_BYTES:,} are accepted: leave it out"
        )


@contextlib.contextmanager
def _kept(model: Any) -> Iterator[None]:
    """Put each part of a module back into its mode, training or evaluation, and its buffers to what they were before.

    An evaluation changes statistics if the learner has an evaluation of its own, or if a module counts what it sees.
    """
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [part.training for part in parts]
    buffers = [(part, name, buffer) for part in parts for name, buffer in part.named_buffers(recurse=False)]
    values = [buffer.clone() for _, _, buffer in buffers]
    try:
        yield
    finally:
        for part, mode in zip(parts, modes):  # noqa: B905 (equally long)
            part.training = mode
        for (part, name, buffer), value in zip(buffers, values):  # noqa: B905 (equally long)
            # What was not changed may be a view that can't be written to. Sparse tensors can't be compared.
            if buffer.layout is torch.strided and not torch.equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)
            if getattr(part, name, None) is not buffer:
                setattr(part, name, buffer)
