"""Rules: how a round's updates become one change of each weight."""

from collections.abc import Sequence

from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.tensors import Array
from broker.messages.update import UpdateHeader
from server.strategies.base import Finished, Reduction
from server.strategies.share import Share


class Rule:
    """Base of the rules: the weighted mean.

    Args:
        job: the job.

    Attributes:
        needs: names of the metrics that every update must have.
        needs_norms: whether the norms of the changes must be known, also without a guard.
        needs_all: whether it has a `reduction`.
    """

    needs: tuple[str, ...] = ()
    needs_norms: bool = False
    needs_all: bool = False

    def __init__(self, job: Job) -> None:
        self.job = job

    def scale(self, header: UpdateHeader, record: JobRecord) -> float:  # noqa: ARG002 (of use in other rules)
        """Return what an update's change is multiplied by before it is added; see `Strategy.scale`."""
        return 1.0

    def reduction(self, shares: Sequence[Share]) -> Reduction | None:  # noqa: ARG002
        """Return what reduces a round's updates; see `Strategy.reduction`."""
        return None

    def value(self, name: str, finished: Finished) -> Array:
        """Return what the updates make of a weight, float64, in the updates' form.

        Args:
            name: the weight's name.
            finished: the round.
        """
        return finished.reductions[name] if name in finished.reductions else finished.mean[name]
