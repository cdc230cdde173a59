"""The local training loop."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from client_fn.errors import ClientError, TrainingFailed
from client_fn.training.randomness import seeded
from client_fn.training.tracebacks import explain

Samples = tuple[Tensor, Tensor]
"""x (N, ...) of any dtype that the model takes, and y (N,) int64: labels from 0."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def train(
    module: nn.Module,
    optimizer: Optimizer,
    samples: Samples,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    before_batch: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Train a module in place on cross-entropy. On one machine, the same seed gives the same bits.

    The training runs on the device that holds the parameters; on a GPU, torch does not promise the same bits.
    Floating-point inputs are cast to the module's dtype; integers (for an embedding) are not. If the module has batch
    normalisation, a last batch of one sample is skipped, because one sample has no variance to normalise by.

    Args:
        module: returns logits (N, classes) for a batch (N, ...).
        optimizer: over the module's parameters.
        samples: all training samples.
        batch_size: samples per step.
        epochs: how often each sample is used, each time in a new order.
        seed: for the order of the samples, and for the random numbers of the module (dropout), numpy's too.
        before_batch: called before each step; an error that it raises ends the training.

    Returns:
        `loss`, the mean over the last epoch's samples; `first_epoch_loss`; `steps` of the optimizer.

    Raises:
        TrainingFailed: module and samples do not fit, there are no samples, or the loss is no longer finite.
    """
    x, y = cast_inputs(module, samples)
    shuffle = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    steps = 0
    module.train()
    device = next(module.parameters()).device
    with seeded(seed, device), map_errors(x):
        for epoch in range(1, epochs + 1):
            batches = _split(torch.randperm(len(y), generator=shuffle), batch_size, module)
            total = torch.zeros((), device=device)
            for batch in batches:
                if before_batch:
                    before_batch()
                xs, ys = (part.index_select(0, batch).to(device) for part in (x, y))
                loss = mean_loss(module(xs), ys)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach() * len(batch)
            # Read the number once per epoch, not per step: on a GPU each read waits for the device.
            losses.append(total.item() / sum(map(len, batches)))
            if not math.isfinite(losses[-1]):
                reason = f"the loss is {losses[-1]} after local epoch {epoch}"
                raise TrainingFailed(f"{reason}: try a smaller learning rate")
            steps += len(batches)
    return {"loss": losses[-1], "first_epoch_loss": losses[0], "steps": float(steps)}


def cast_inputs(module: nn.Module, samples: Samples) -> Samples:
    """Return the samples with floating-point x cast to the module's dtype.

    Args:
        module: its first floating-point parameter decides the dtype.
        samples: x and y.

    Raises:
        TrainingFailed: there are no samples.
    """
    x, y = samples
    if not len(y):
        raise TrainingFailed("there are no samples")
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), x.dtype)
    return (x.to(dtype) if x.is_floating_point() else x), y


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, a scalar computed in float32 or float64.

    Args:
        logits: (N, classes), of any floating-point dtype.
        labels: (N,) int64.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(logits, labels)


@contextlib.contextmanager
def map_errors(x: Tensor) -> Iterator[None]:
    """Map the errors of the model in the block; most mean that the model and its samples do not fit.

    Raises:
        TrainingFailed: the model raised an error; the sentence names the shape and dtype of `x`.
    """
    try:
        yield
    except ClientError:
        raise
    except (Exception, SystemExit) as exc:  # a user's model may raise any error, and may even exit
        shape = ", ".join(map(str, x.shape[1:]))
        sentence = f"the model failed on samples of shape ({shape}), {x.dtype}, or on their labels"
        raise TrainingFailed(sentence, **explain(exc)._asdict()) from exc


def _split(order: Tensor, batch_size: int, module: nn.Module) -> tuple[Tensor, ...]:
    batches = torch.split(order, batch_size)
    is_last_alone = len(batches) > 1 and len(batches[-1]) == 1 and batch_size > 1
    has_batch_norm = any(isinstance(part, _BATCH_NORMS) and part.training for part in module.modules())
    return batches[:-1] if is_last_alone and has_batch_norm else batches
