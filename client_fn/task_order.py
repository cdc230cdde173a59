"""Makes the order for the trainer out of a task."""

import msgspec

from broker.messages.round import RoundTask
from client_fn import judged
from client_fn.data.shard_cache import Shard
from client_fn.site import Site
from client_fn.trainer import settings
from client_fn.training import orders


def order_of(task: RoundTask, shard: Shard | None, site: Site, left_s: float) -> orders.Train | orders.Evaluate:
    """Return what the trainer is to do.

    Args:
        task: the task.
        shard: the client's samples; None: a dry task has none.
        site: the site's settings.
        left_s: seconds until the task's deadline.
    """
    make = judged.order_of if task.purpose == "evaluate" else _training
    order: orders.Train | orders.Evaluate = make(task, site, left_s)
    return order if shard is None else order._replace(source=settings.source(task.data, shard))


def _training(task: RoundTask, site: Site, left_s: float) -> orders.Train:
    training = task.training_hyperparameters
    return orders.Train(
        model=settings.model(task.model_configuration),
        training=None if training.dry else settings.training(training),
        seed=task.seed,
        device=site.device or training.device or "cpu",
        left_s=left_s,
        strategy=msgspec.to_builtins(task.strategy),
        update=task.update,
        learner=settings.learner(task.learner),
        evaluation=settings.evaluation(task.evaluation),
        round=task.round,
        model_seed=task.model_seed,
        personal=task.model_configuration.personal,
        frozen_digest=task.frozen_digest,
    )
