"""Local training: one loop, top to bottom."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from client_fn.errors import Diverged, TrainingFailed

Samples = tuple[Tensor, Tensor]
"""x (N, ...) of any dtype that the model takes, and y (N,) int64: labels from 0."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def proceed() -> None:
    """Nothing is in the way of the next batch."""


def train(
    module: nn.Module,
    optimizer: Optimizer,
    data: Samples,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    before_batch: Callable[[], None] = proceed,
) -> dict[str, float]:
    """Train a module in place on cross-entropy; the same seed gives the same bits on the same machine.

    It is trained on the device where its parameters are; on a GPU, torch does not promise the same bits.
    Floating-point inputs are cast to the module's dtype, integers (an embedding's) stay as they are. If the
    module has batch normalisation, a last batch of one sample is left out: it has no variance to normalise by.

    Args:
        module: gives logits (N, classes) for a batch (N, ...).
        optimizer: over the module's parameters.
        data: all samples.
        batch_size: samples per step.
        epochs: how often each sample is used, in a new order each time.
        seed: of the order, and of what the module draws itself (dropout).
        before_batch: called before each step; what it raises ends the training.

    Returns:
        `loss`: mean over the last epoch's samples; `first_epoch_loss`; `steps` of the optimizer.

    Raises:
        TrainingFailed: module and data do not fit.
        Diverged: the loss is no finite number any more.
    """
    x, y = fitting(module, data)
    shuffle = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    steps = 0
    module.train()
    device = next(module.parameters()).device
    with _drawing(seed, device), explained(x):
        for epoch in range(epochs):
            batches = _batches(torch.randperm(len(y), generator=shuffle), batch_size, module)
            total = torch.zeros((), device=device)
            for batch in batches:
                before_batch()
                xs, ys = (part.index_select(0, batch).to(device) for part in (x, y))
                loss = mean_loss(module(xs), ys)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach() * len(batch)
            # Reading a number out of a tensor once per epoch, not per step.
            losses.append(total.item() / sum(map(len, batches)))
            if not math.isfinite(losses[-1]):
                raise Diverged(epoch + 1, losses[-1])
            steps += len(batches)
    return {"loss": losses[-1], "first_epoch_loss": losses[0], "steps": float(steps)}


@contextlib.contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """What the module draws (dropout) comes from the seed; the process's own random numbers are left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        yield


def fitting(module: nn.Module, data: Samples) -> Samples:
    """The samples with floating-point x in the module's dtype.

    Raises:
        TrainingFailed: there are none.
    """
    x, y = data
    if not len(y):
        raise TrainingFailed("there are no samples")
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), x.dtype)
    return (x.to(dtype) if x.is_floating_point() else x), y


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (N, classes), computed in float32 where they have less."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(logits, labels)


@contextlib.contextmanager
def explained(x: Tensor) -> Iterator[None]:
    """What torch raises, mostly where a model and its data do not fit, becomes TrainingFailed."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as exc:
        shape = ", ".join(map(str, x.shape[1:]))
        raise TrainingFailed(f"torch refused samples of shape ({shape}), {x.dtype}, or their labels: {exc}") from exc


def _batches(order: Tensor, size: int, module: nn.Module) -> tuple[Tensor, ...]:
    batches = torch.split(order, size)
    alone = len(batches) > 1 and len(batches[-1]) == 1 and size > 1
    return batches[:-1] if alone and _has_batch_norm(module) else batches


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, _BATCH_NORMS) and part.training for part in module.modules())
