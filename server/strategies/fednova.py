"""FedNova: the mean of the changes per step, times an effective number of steps (Wang et al. 2020, arXiv 2007.07481).

With `a_i` for the L1 norm of the weights that client i's steps have in its change, and `p_i` for its share of the
samples, the model moves by `sum(p_i a_i) * sum(p_i d_i / a_i)`. Each change is multiplied by `reference / a_i` before
it is added. The reference is the largest `a` that the register lets expect, so that equal numbers of steps multiply by
1: then the model has the bytes of federated averaging.
"""

import functools
import math
from fractions import Fraction
from typing import Final

from broker.messages.job import Job
from broker.messages.job_record import JobRecord, Member
from broker.messages.strategy import FedProx, client_half
from broker.messages.tensors import Array
from broker.messages.update import UpdateHeader
from server import training
from server.errors import Refused
from server.strategies.base import Finished
from server.strategies.rules import Rule

MAX_STEPS: Final = 1_000_000
"""Most steps of a client in a round."""

_STEPS: Final = "steps"


class FedNova(Rule):
    """Averages the changes per step."""

    needs = (_STEPS,)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        half = client_half(job.strategy)
        self._mu = half.mu if isinstance(half, FedProx) else 0.0
        self._momentum = float(job.training.optimizer_args.get("momentum", 0.0))

    def scale(self, header: UpdateHeader, record: JobRecord) -> float:
        """Implements `Rule.scale`."""
        return self._reference(record) / self._norm(header, record)

    def value(self, name: str, finished: Finished) -> Array:
        """Implements `Rule.value`."""
        return finished.mean[name] * (self._effective(finished) / self._reference(finished.record))

    def _effective(self, finished: Finished) -> float:
        """Return the effective number of steps; with a proximal term it is the mean number of them."""
        norm = _steps if self._mu else functools.partial(self._norm, record=finished.record)
        headers = [header for _, header in sorted(finished.headers.items())]
        weights = [finished.shares[header.client].weight for header in headers]
        # In fractions, so that the mean of equal numbers is that number.
        total = sum(weight * Fraction(norm(header)) for weight, header in zip(weights, headers, strict=True))
        return float(total / sum(weights))

    def _norm(self, header: UpdateHeader, record: JobRecord) -> float:
        (member,) = (each for each in record.cohort if each.id == header.client)
        return self._norm_of(_steps(header), member, record)

    def _reference(self, record: JobRecord) -> float:
        members = [member for member in record.cohort if member.purpose == "train"]
        return max(self._norm_of(_expected_steps(member, record), member, record) for member in members)

    def _norm_of(self, steps: int, member: Member, record: JobRecord) -> float:
        rate = training.training_of(member, record).rate or 0.0
        return norm_of_steps(steps, self._momentum, rate * self._mu)


@functools.lru_cache(maxsize=1024)
def norm_of_steps(steps: int, momentum: float = 0.0, decay: float = 0.0) -> float:
    """Return the L1 norm of the weights that the gradients of a client's steps have in its change.

    Args:
        steps: number of steps.
        momentum: SGD's momentum.
        decay: learning rate times the weight of the proximal term.
    """
    norm = step = 0.0
    for _ in range(steps):
        step = momentum * step + 1.0
        norm = norm * (1.0 - decay) + step
    return norm


def _steps(header: UpdateHeader) -> int:
    steps = header.metrics[_STEPS]
    if steps != int(steps) or not 1 <= steps <= MAX_STEPS:
        raise Refused("strategy", f"it claims {steps:g} steps, a whole number from 1 to {MAX_STEPS} is possible")
    return int(steps)


def _expected_steps(member: Member, record: JobRecord) -> int:
    """Return the steps that a client makes by the register's number of samples; 1 for an epoch if that is not known."""
    settings = training.training_of(member, record)
    samples = round(member.samples * (1 - record.job.evaluation.holdout))
    batches = samples // settings.batch_size if settings.drop_last else math.ceil(samples / settings.batch_size)
    return min(MAX_STEPS, settings.local_epochs * max(1, batches))
