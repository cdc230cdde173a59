"""Splits a round's wall time as the paper's Figure 5 does, and averages the clients' metrics. Pure."""

import math
from collections.abc import Mapping

from broker.messages.reports import Split


def split(*, opened_s: float, invited_s: float, training_s: float | None, last_s: float, committed_s: float) -> Split:
    """Split a round's time into invocation, start of the clients, training and aggregation. The parts add up.

    All arguments are in seconds on one clock.

    Args:
        opened_s: when the cohort was chosen.
        invited_s: when the broker had every task.
        training_s: when the first client began to train; None: no bridge has reported it.
        last_s: when the last counted update arrived.
        committed_s: when the new global model was committed.
    """
    started_s = invited_s if training_s is None else max(invited_s, training_s)
    arrived_s = max(started_s, last_s)
    return Split(
        invocation_s=invited_s - opened_s,
        clients_start_s=started_s - invited_s,
        training_s=arrived_s - started_s,
        aggregation_s=committed_s - arrived_s,
        round_s=committed_s - opened_s,
    )


def weighted_means(reports: Mapping[str, tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Mean of each metric over the clients that report it, weighted by samples.

    The sum runs over the clients by id, so the result is the same to the bit in any order of `reports`. A mean that is
    not finite is left out: JSON has no such number, and a job's record must be readable.

    Args:
        reports: samples and metrics of each client, by client id.
    """
    sums: dict[str, float] = {}
    samples: dict[str, int] = {}
    for _, (count, metrics) in sorted(reports.items()):
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + count * value
            samples[name] = samples.get(name, 0) + count
    means = {name: total / samples[name] for name, total in sums.items()}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}
