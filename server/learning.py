"""The interface between the server and the model's framework.

The caller of `server.service.serve` passes an implementation, so the server itself needs no torch.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

from broker.messages.job import Job
from broker.messages.tensors import Tensors


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A job's model before training.

    Attributes:
        weights: every tensor that is sent, by name.
        frozen: names of the tensors that clients do not train; updates leave them out.
        buffers: names of the tensors that are statistics, not weights.
        code: digest of the user's code that made it; empty: the model is not of that code.
        personal: names of the tensors that never leave a client; they are not in `weights`.
    """

    weights: Tensors
    frozen: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    code: str = ""
    personal: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A model's quality on the server's test set.

    Attributes:
        accuracy: share of right answers, 0 to 1; None: not measured.
        loss: mean loss over the samples, or a value that is not finite; None: not measured.
        samples: size of the test set.
        metrics: what else was measured, by metric.
    """

    accuracy: float | None
    loss: float | None
    samples: int
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> dict[str, float]:
        """All that was measured, by metric, without what is not finite: JSON has no NaN."""
        named = {"accuracy": self.accuracy, "loss": self.loss, **self.metrics}
        return {name: value for name, value in named.items() if value is not None and math.isfinite(value)}


class Learning(Protocol):
    """Builds and evaluates models, in another process: the user's code must harm neither the server nor other jobs.

    A call that is cancelled ends what it has started.
    """

    async def initial_model(self, job: Job) -> InitialModel:
        """Build the job's initial model; the same job and seed give the same model.

        Raises:
            LearningFailed: the model's class or the data can't be used; the message says what to do.
            LearningDied: the process ended.
        """

    async def read_model(self, url: str) -> bytes:
        """Read a model's safetensors file at a URL, if the server's site settings allow the place.

        Raises:
            LearningFailed: it can't be read; the message says what to do.
        """

    async def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:
        """Evaluate a model on the job's test set.

        Args:
            job: names the model and the test set.
            weights: the model, a safetensors file.

        Raises:
            LearningFailed: the model's class or the data can't be used; the message says what to do.
            LearningDied: the process ended.
        """

    async def score(self, job: Job, sums: Tensors) -> dict[str, float]:
        """Compute metrics once from sums over all samples that clients hold out; finite numbers, by metric.

        Args:
            job: names the model and the metrics.
            sums: the clients' states of each metric, added up: `<metric>.<state>`, int64 or float64.

        Raises:
            LearningFailed: the sums do not fit the metrics.
            LearningDied: the process ended.
        """
