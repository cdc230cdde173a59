"""The server's view of torch: builds and judges models with the function's own code."""

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from broker.messages.errors import BadTensors
from broker.messages.job import Job
from broker.messages.round import seed
from broker.messages.tensors import DTYPES, Array
from client_fn.data import datasets
from client_fn.errors import ClientError
from server.errors import LearningFailed
from server.learning import EvaluationResult, InitialModel

if TYPE_CHECKING:
    from torch import Tensor


class TorchLearning:
    """A `server.learning.Learning` on this machine's datasets."""

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._test_set = lru_cache(maxsize=4)(self._load)

    def initial_model(self, job: Job) -> InitialModel:
        """Build the model, and make sure that it can be judged later."""
        from client_fn.training import models, tensors

        with _mapped():
            module = models.build(job.model, seed=seed(job.seed, "model"))
            if job.evaluation.every:
                self._test_set(job.data.dataset)
            weights = {name: _array(name, tensor) for name, tensor in tensors.tensors_of(module).items()}
        buffers = tuple(name for name, _ in module.named_buffers())
        return InitialModel(weights, tensors.frozen_names(module), buffers)

    def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:
        """Accuracy and loss on the dataset's test set."""
        from client_fn.training.evaluate import evaluate

        with _mapped():
            x, y = self._test_set(job.data.dataset)
            found = evaluate(job.model, weights, x, y, job.evaluation.batch_size)
        return EvaluationResult(found.accuracy, found.loss, found.samples)

    def _load(self, name: str) -> "tuple[Tensor, Tensor]":
        import torch

        x, y = datasets.load_test(name, data_dir=self._data_dir)
        return torch.from_numpy(x), torch.from_numpy(y)


def _array(name: str, tensor: "Tensor") -> Array:
    """A tensor's values for numpy, which knows bfloat16 from ml_dtypes only."""
    import torch

    whole = tensor.contiguous()
    try:
        is_bfloat16 = whole.dtype is torch.bfloat16
        array = whole.view(torch.int16).numpy().view(DTYPES["BF16"]) if is_bfloat16 else whole.numpy()
    except TypeError as exc:  # numpy has no such dtype
        raise _unknown_dtype(name, tensor) from exc
    if array.dtype not in DTYPES.values():
        raise _unknown_dtype(name, tensor)
    return array


def _unknown_dtype(name: str, tensor: "Tensor") -> BadTensors:
    return BadTensors(f"{name} has dtype {tensor.dtype}, known are {', '.join(DTYPES)}")


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except (ClientError, BadTensors) as exc:
        raise LearningFailed(str(exc)) from exc
    except ModuleNotFoundError as exc:
        raise LearningFailed(f"{exc.name} is missing here: install fedkeeper[train]") from exc
