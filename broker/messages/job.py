"""The job: what a person submits. `broker.messages.job_file` reads and writes it as TOML and JSON."""

from broker.messages.job_sections import (
    PIXELS,
    Cohort,
    Data,
    Evaluation,
    Learner,
    Model,
    Override,
    Section,
    Stop,
    Training,
)
from broker.messages.strategy import FedAvg, Strategy
from broker.support import notebook
from broker.support.validation import NotNegative


class Job(Section, frozen=True):
    """A federated training job.

    Attributes:
        id: the job's id; None: the server derives one from `name`.
        name: name for people; the server's ids start with it.
        seed: seed of all random numbers of the job, but for those that `cohort.seed` and `data.seed` decide.
        model: the model to train.
        learner: the user's class that says how to learn.
        training: how each client trains in a round.
        cohort: which clients take part in a round, and when the round ends.
        strategy: how the counted updates become the next global model.
        data: the data that the job trains on.
        evaluation: how the server evaluates the global model.
        stop: when the job ends.
        override: other training settings for some clients.
    """

    id: str | None = None
    name: str = "job"
    seed: NotNegative = 1
    model: Model = Model()
    learner: Learner = Learner()
    training: Training = Training()
    cohort: Cohort = Cohort()
    strategy: Strategy = FedAvg()
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    stop: Stop = Stop()
    override: tuple[Override, ...] = ()

    @property
    def draw_seed(self) -> int:
        """Seed of the draws of who trains and who judges."""
        return self.seed if self.cohort.seed is None else self.cohort.seed

    @property
    def test_data(self) -> str:
        """What the server evaluates the global model with: a built-in dataset, a URL, or nothing (empty)."""
        if not self.evaluation.every or self.model.personal:
            return ""
        return self.evaluation.data or (self.data.dataset if self.data.dataset in PIXELS else "")

    @property
    def is_judged_by_clients(self) -> bool:
        """Whether clients judge the global model on data that they hold out."""
        return self.evaluation.holdout > 0

    def _repr_html_(self) -> str:
        # Imported here because that module needs this one.
        from broker.messages import job_file

        return notebook.text(job_file.short_toml(self))
