"""Puts a job's tables into orders."""

from broker.messages import job_sections
from client_fn.data.shard_cache import Shard
from client_fn.training import orders


def model(section: job_sections.Model) -> orders.Model:
    """Return an order's model."""
    return orders.Model(section.type, section.args)


def learner(section: job_sections.Learner) -> orders.Learner:
    """Return an order's learner."""
    return orders.Learner(section.type, section.args)


def training(section: job_sections.Training) -> orders.Training:
    """Return how an order trains. What only the server or the function needs is left out."""
    fields = {name: getattr(section, name) for name in _TRAINING}
    return orders.Training(**fields)


def evaluation(section: job_sections.Evaluation | None) -> orders.Evaluation:
    """Return how an order evaluates.

    Args:
        section: the job's; None: it says nothing.
    """
    if section is None:
        return orders.Evaluation()
    return orders.Evaluation(section.batch_size, section.metrics, section.holdout)


def source(data: job_sections.Data, shard: Shard) -> orders.Source:
    """Return how an order reads samples.

    Args:
        data: the job's.
        shard: the samples.
    """
    options = {"target": data.target, "drop": data.drop, "labels": data.labels}
    return orders.Source(shard.format, shard.path, shard.where, options)


_TRAINING = orders.Training._fields
