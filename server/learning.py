"""What the server needs of the model's framework. It is handed in, so that the server itself needs no torch."""

from dataclasses import dataclass
from typing import Protocol

from broker.messages.job import Job
from broker.messages.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Initial:
    """A job's model before training.

    Attributes:
        weights: every tensor, by name.
        frozen: names of the tensors that clients do not train, so updates leave them out.
        buffers: names of the tensors that are statistics, not weights.
    """

    weights: Tensors
    frozen: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good a model is on the server's test set.

    Attributes:
        accuracy: share of right answers, 0 to 1.
        loss: mean cross-entropy.
        samples: size of the test set.
    """

    accuracy: float
    loss: float
    samples: int


class Learning(Protocol):
    """Builds and judges models. Both are called in a thread, one call per job at a time.

    Raises:
        server.errors.LearningFailed: the class or the data can't be used; the message says what to do.
    """

    def initial(self, job: Job) -> Initial:
        """The job's model with its initial weights, the same for the same job and seed."""

    def judge(self, job: Job, weights: bytes) -> Judgement:
        """Evaluate a model on the test set of the job's dataset."""
