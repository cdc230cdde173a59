"""What a job or a task names of the code that its users have written."""

from typing import NamedTuple, Protocol

from broker.messages.job_sections import Evaluation, Learner, Model, Training
from client_fn.code.allow import BUILT_IN


class Names(NamedTuple):
    """The code that a job names.

    Attributes:
        types: each class or function, as `package.module:Name`; those of ours are not among them.
        code: digest of the code that the job was accepted with; empty: none.
    """

    types: tuple[str, ...]
    code: str = ""


class Sections(Protocol):
    """A job."""

    @property
    def model(self) -> Model:
        """The model to train."""

    @property
    def learner(self) -> Learner:
        """How to learn."""

    @property
    def training(self) -> Training:
        """How to train."""

    @property
    def evaluation(self) -> Evaluation:
        """How to evaluate."""


def names(model: Model, learner: Learner, training: Training, evaluation: Evaluation | None) -> Names:
    """Return the code that a job's sections name.

    Args:
        model: its model; knows the digest of the code.
        learner: how to learn.
        training: how to train.
        evaluation: how to evaluate; None: not at all.
    """
    metrics = () if evaluation is None else evaluation.metrics
    # A type without a colon is none of ours either; the allow list refuses it.
    types = [type_ for type_ in (model.type, learner.type) if type_ and type_ not in BUILT_IN]
    types += [name for name in (training.loss, *metrics) if ":" in name]
    return Names(tuple(dict.fromkeys(types)), model.code)


def of_job(job: Sections) -> Names:
    """Return the code that a job names.

    Args:
        job: the job.
    """
    return names(job.model, job.learner, job.training, job.evaluation)
