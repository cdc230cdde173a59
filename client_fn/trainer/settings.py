"""Puts a job's tables into orders."""

from broker.messages import job_sections
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


_TRAINING = tuple(orders.Training.__dataclass_fields__)
