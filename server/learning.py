"""The interface between the server and the model's framework.

The caller of `server.service.serve` passes an implementation, so the server itself needs no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from broker.messages.job import Job
from broker.messages.tensors import Tensors


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A job's model before training.

    Attributes:
        weights: every tensor, by name.
        frozen: names of the tensors that clients do not train; updates leave them out.
        buffers: names of the tensors that are statistics, not weights.
        code: digest of the user's code that made it; empty: the model is not of that code.
    """

    weights: Tensors
    frozen: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    code: str = ""


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A model's quality on the server's test set.

    Attributes:
        accuracy: share of right answers, 0 to 1; None: not measured.
        loss: mean loss; None: not measured, or not finite.
        samples: size of the test set.
        metrics: all that was measured, `accuracy` and `loss` too; finite numbers.
    """

    accuracy: float | None
    loss: float | None
    samples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


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

    async def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:
        """Evaluate a model on the test set of the job's dataset.

        Args:
            job: names the model and the dataset.
            weights: the model, a safetensors file.

        Raises:
            LearningFailed: the model's class or the data can't be used; the message says what to do.
            LearningDied: the process ended.
        """
