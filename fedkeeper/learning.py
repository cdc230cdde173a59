"""Builds and evaluates models for the server with torch, by the function's own code."""

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
    """Implements `server.learning.Learning` with torch and the built-in datasets.

    Args:
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._test_set = lru_cache(maxsize=4)(self._load_test_set)

    def initial_model(self, job: Job) -> InitialModel:
        """Implements `Learning.initial_model`. Also loads the test set, so that a missing dataset fails the job."""
        from client_fn.training import models, tensors

        with _mapped_errors():
            module = models.build(job.model, seed=seed(job.seed, "model"))
            if job.evaluation.every:
                self._test_set(job.data.dataset)
            weights = {name: _array(name, tensor) for name, tensor in tensors.tensors_of(module).items()}
        buffers = tuple(name for name, _ in module.named_buffers())
        return InitialModel(weights, tensors.frozen_names(module), buffers)

    def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:
        """Implements `Learning.evaluate`: accuracy and loss on the dataset's test set."""
        from client_fn.training.evaluate import evaluate

        with _mapped_errors():
            x, y = self._test_set(job.data.dataset)
            result = evaluate(job.model, weights, x, y, job.evaluation.batch_size)
        return EvaluationResult(result.accuracy, result.loss, result.samples)

    def _load_test_set(self, name: str) -> "tuple[Tensor, Tensor]":
        import torch

        x, y = datasets.load_test(name, data_dir=self._data_dir)
        return torch.from_numpy(x), torch.from_numpy(y)


def _array(name: str, tensor: "Tensor") -> Array:
    """Convert a tensor to numpy, which has bfloat16 only from ml_dtypes."""
    import torch

    contiguous = tensor.contiguous()
    try:
        is_bfloat16 = contiguous.dtype is torch.bfloat16
        array = contiguous.view(torch.int16).numpy().view(DTYPES["BF16"]) if is_bfloat16 else contiguous.numpy()
    except TypeError as exc:  # numpy has no such dtype
        raise _unknown_dtype(name, tensor) from exc
    if array.dtype not in DTYPES.values():
        raise _unknown_dtype(name, tensor)
    return array


def _unknown_dtype(name: str, tensor: "Tensor") -> BadTensors:
    return BadTensors(f"{name} has dtype {tensor.dtype}, known are {', '.join(DTYPES)}")


@contextlib.contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except (ClientError, BadTensors) as exc:
        raise LearningFailed(str(exc)) from exc
    except ModuleNotFoundError as exc:
        raise LearningFailed(f"{exc.name} is missing here: install fedkeeper[train]") from exc
