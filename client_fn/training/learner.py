"""How a client learns: the class that users extend, and the defaults of all its methods."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import default_collate

from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import evaluate, loop, losses, metrics, models, names, optimizers, tensors
from client_fn.training.batches import TARGET, Batch
from client_fn.training.context import Context
from client_fn.training.losses import Loss
from client_fn.training.orders import Build, Evaluation, Model, Order, Train, Training
from client_fn.training.randomness import seeded
from client_fn.training.source import Source

_LOGITS = ("logits", "out")
"""Names of the outputs that count, in a model's dict or object (Hugging Face, torchvision)."""


@dataclass(frozen=True)
class Job:
    """What a job says about learning.

    Attributes:
        model: the job's model.
        training: its training section.
        evaluation: its evaluation section.
        loss: the loss that `training` names.
    """

    model: Model
    training: Training
    evaluation: Evaluation
    loss: Loss


class Learner:
    """How a client learns. Each method has a default, so a class of yours has only the methods that differ.

    A job names the class: `[learner] type = "mine:Diabetes"`. It need not inherit from this one: what it lacks is taken
    from here. The trainer makes an object of it for each task; nothing that it keeps reaches another task.
    """

    _job: Job

    def model(self) -> Any:
        """Return the model with its initial weights. By default that of the job's `[model]`.

        A model that is no torch module needs `arrays`, `load`, `fit` and `evaluate` as well.
        """
        return models.construct(self._job.model)

    def data(self, source: Source) -> Any:
        """Return the client's samples. By default all that the shard holds.

        Either a tuple or a mapping of tensors or numpy arrays with a common first side, or a `Dataset` (an object with
        `len` and samples by number), or an iterable of batches such as a `DataLoader`.

        Args:
            source: the client's shard.
        """
        return source.samples()

    def collate(self, samples: list[Any]) -> Batch:
        """Return the batch of some samples of a `Dataset`. By default as torch's `DataLoader` does.

        Args:
            samples: the samples.
        """
        return default_collate(samples)

    def predict(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """Return the model's outputs for a batch, and the targets that belong to them.

        By default the last tensor of a tuple is the target, and the others are the model's arguments. Of a dict `y` is
        the target; the others go to the arguments of `forward` with their names, or, if it has none of these names,
        `x` is its only argument. Of several outputs the first counts, or `logits`, or `out`. Metrics that a job names
        take the outputs for logits, or for predicted numbers.

        Args:
            model: the model.
            batch: as `data` and `collate` make them; on the model's device.
        """
        if isinstance(batch, Mapping):
            if TARGET not in batch:
                raise TrainingFailed(
                    f"a batch has {', '.join(map(str, batch))} and no 'y': give the learner a predict()"
                )
            return _first_of(model(**_arguments(model, batch))), batch[TARGET]
        if not (isinstance(batch, (tuple, list)) and len(batch) > 1):
            kind = type(batch).__name__
            raise TrainingFailed(f"a batch is a {kind}, and no tuple (x, y) or dict: give the learner a predict()")
        *inputs, targets = batch
        return _first_of(model(*inputs)), targets

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the loss of a batch: a scalar, the mean over its samples. By default `training.loss` of `predict`.

        Args:
            model: the model.
            batch: as in `predict`.
        """
        return self._job.loss(*self.predict(model, batch))

    def metrics(self) -> Mapping[str, Any]:
        """Return what is measured beside the loss: `torchmetrics.Metric` objects, or names that a job can use.

        They get what `predict` returns. By default `evaluation.metrics`.
        """
        chosen = self._job.evaluation.metrics
        if not chosen and not self._has_own("loss"):
            chosen = metrics.SUITABLE.get(self._job.training.loss, ())
        return {metrics.name_of(name): name for name in chosen}

    def optimizer(self, model: Any) -> Optimizer:
        """Return a new optimizer. By default `training.optimizer`.

        Args:
            model: the model.
        """
        return optimizers.make(self._job.training, model.parameters())

    def fit(self, model: Any, data: Any, context: Context) -> Mapping[str, float] | None:
        """Train the model in place, and return the client's metrics. By default our loop.

        Args:
            model: the model, with the round's weights.
            data: what `data` has returned.
            context: the round's facts, and help.
        """
        return loop.train(self, model, data, context)

    def evaluate(self, model: Any, data: Any, context: Context) -> Mapping[str, Any]:
        """Return what the model is worth on samples that it has not been trained on.

        Each value is a number, the mean over the samples, or a `torchmetrics.Metric` that has seen all of them. By
        default the loss and `metrics`.

        Args:
            model: the model; nothing of it may change.
            data: what `data` has returned.
            context: the facts, and help.
        """
        return evaluate.measure(self, model, data, context)

    def arrays(self, model: Any) -> Mapping[str, NDArray[Any]]:
        """Return what is learned, as named arrays of numbers. By default a module's parameters and buffers.

        Args:
            model: the model.
        """
        return {name: tensor.cpu().numpy() for name, tensor in tensors.tensors_of(_module(model)).items()}

    def load(self, model: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put arrays into the model.

        Args:
            model: the model, changed in place.
            arrays: of the names, shapes and dtypes of `arrays`.
        """
        tensors.load(_module(model), {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})

    def _has_own(self, method: str) -> bool:
        """Return whether a class of the user's has this method."""
        return getattr(type(self), method) is not getattr(Learner, method)


def make(order: Order) -> Learner:
    """Return the learner of an order.

    Args:
        order: the order.

    Raises:
        BadModel: its class can't be imported or constructed, or `training.loss` is not known.
    """
    training = order.training or Training()
    job = Job(order.model, training, order.evaluation, losses.make(training))
    if not order.learner.type:
        learner = Learner()
        learner._job = job
        return learner
    found = find(order.learner.type)
    bases = (found,) if issubclass(found, Learner) else (found, Learner)
    # Its own class, because the user's may allow no further attributes.
    facts = {"_job": job, "__module__": found.__module__, "__qualname__": found.__qualname__}
    class_: type[Learner] = type(found.__name__, bases, facts)
    seed = order.seed if isinstance(order, Build | Train) else 0
    with seeded(seed):
        label = f"learner {order.learner.type!r}"
        return names.construct(class_, order.learner.args, label, "learner.args")  # type: ignore[no-any-return]


def find(path: str) -> type[Any]:
    """Return a learner's class. This imports the user's module.

    Args:
        path: `package.module:Name`.

    Raises:
        BadModel: it can't be imported, is not there, or is no class of that package.
    """
    found, is_of_package = names.find(path, f"learner {path!r}")
    if not (inspect.isclass(found) and is_of_package):
        raise BadModel(f"learner {path!r}: is no class of that package")
    return found


def _module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise BadModel(
            f"the learner's model is a {type(model).__name__}, no torch.nn.Module: give the learner arrays() and load()"
        )
    return model


def _arguments(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a batch that a model's `forward` takes, by its parameters' names."""
    forward = inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in forward.values())
    named = {name: part for name, part in batch.items() if name != TARGET and (takes_all or name in forward)}
    if named or "x" not in batch:
        return named
    return {next(iter(forward)): batch["x"]}


def _first_of(outputs: Any) -> Any:
    """Return the output that counts, of a model that may return several."""
    if isinstance(outputs, Tensor):
        return outputs
    for name in _LOGITS:
        if isinstance(outputs, Mapping) and name in outputs:
            return outputs[name]
        if hasattr(outputs, name):
            return getattr(outputs, name)
    if isinstance(outputs, (tuple, list)) and outputs:
        return outputs[0]
    names_ = f" of {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    raise TrainingFailed(
        f"the model returns a {type(outputs).__name__}{names_}: return a tensor, a tuple whose first part counts, or a "
        "dict or object with 'logits' or 'out', or give the learner a predict()"
    )
