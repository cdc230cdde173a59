"""What the clients' judgements of a round's model come to: totals, the spread among clients, and the event. Pure."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.messages import metrics as names
from broker.messages.job import Job
from broker.messages.job_sections import Direction
from broker.messages.progress import ModelEvaluated
from broker.messages.reports import Spread
from broker.messages.tensors import Tensors
from broker.messages.update import UpdateHeader
from server import sums
from server.sums import SumTotals

_DECILE = 10


@dataclass
class Judging:
    """The answers of a round's clients about its model.

    Attributes:
        headers: metadata of the counted answers, by client id; also of those that have judged nothing.
        totals: the sums of those that have.
    """

    headers: dict[str, UpdateHeader] = field(default_factory=dict)
    totals: SumTotals = field(default_factory=SumTotals)

    def add(self, header: UpdateHeader, tensors: Tensors) -> None:
        """Add a counted answer.

        Args:
            header: its metadata.
            tensors: its sums; none: the client has judged nothing.
        """
        self.headers[header.client] = header
        self.totals.add(header.client, tensors)

    @property
    def clients(self) -> int:
        """Number of clients that have judged the model with at least one sample."""
        return sum(bool(header.judged) for header in self.headers.values())

    def event(
        self, job: Job, round_: int, metrics: Mapping[str, float], *, background: bool, reason: str = ""
    ) -> ModelEvaluated:
        """The event of the clients' evaluation.

        Args:
            job: says which values of metrics are better.
            round_: the round that the model is of; 0: the initial one.
            metrics: what the totals come to, by metric; finite.
            background: whether clients trained meanwhile.
            reason: why there are no metrics.
        """
        judges = [header for _, header in sorted(self.headers.items()) if header.judged]
        spread = {metric: self._spread(job, metric) for metric in self.totals.metrics}
        left_out = {metric: len(self.headers) - len(self._own(metric)) for metric in self.totals.metrics}
        return ModelEvaluated(
            round=round_,
            accuracy=metrics.get("accuracy"),
            loss=metrics.get("loss"),
            samples=sum(header.judged for header in judges),
            evaluation_s=math.fsum(header.seconds.get("judge", 0.0) for header in judges),
            background=background,
            by="clients",
            metrics=dict(metrics),
            clients=self.clients,
            spread={metric: each for metric, each in spread.items() if each is not None},
            left_out={metric: clients for metric, clients in left_out.items() if clients},
            reason=reason,
        )

    def _spread(self, job: Job, metric: str) -> Spread | None:
        better = names.direction(metric, job.evaluation.directions)
        shown = {
            client: value
            for client, value in self._own(metric).items()
            if self.headers[client].metrics_scope == "client"
        }
        # Which clients are the worst is unknown without a direction.
        return spread(shown, better) if shown and better else None

    def _own(self, metric: str) -> dict[str, tuple[int, float]]:
        added = self.totals.clients(metric)
        values = sums.own_values(self.headers, metric)
        return {client: value for client, value in values.items() if client in added}


def spread(values: Mapping[str, tuple[int, float]], better: Direction) -> Spread:
    """How a metric differs among clients.

    Args:
        values: held-out samples and value of each client, by client id.
        better: which values are better.
    """
    ordered = sorted((value for _, value in values.values()), reverse=better == "min")
    worst = ordered[: max(1, len(ordered) // _DECILE)]
    samples = sum(count for count, _ in values.values())
    return Spread(
        mean=math.fsum(count * value for count, value in values.values()) / samples,
        median=statistics.median(ordered),
        worst_decile=math.fsum(worst) / len(worst),
    )
