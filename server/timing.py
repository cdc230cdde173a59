"""Where a round's wall time went, in the terms of the paper's Figure 5. Pure."""

from collections.abc import Mapping

from broker.messages.progress import Split


def split(*, opened_s: float, invited_s: float, training_s: float | None, last_s: float, committed_s: float) -> Split:
    """Cut a round's time at the moments when something changed hands; the parts add up.

    Args:
        opened_s: the cohort was chosen.
        invited_s: every task was with the broker.
        training_s: the first client began to train; None: nobody said so.
        last_s: the last counted update was here.
        committed_s: the new global model was committed.
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


def weighted(reports: Mapping[str, tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """The mean of each metric over the clients that report it, weighted by samples; in the clients' order by id.

    Args:
        reports: per client, its samples and metrics.
    """
    sums: dict[str, float] = {}
    samples: dict[str, int] = {}
    for _, (count, metrics) in sorted(reports.items()):
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + count * value
            samples[name] = samples.get(name, 0) + count
    return {name: total / samples[name] for name, total in sums.items()}
