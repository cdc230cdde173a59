"""What a client says about the model that it has judged: the order for its trainer, and the facts that are believed."""

import math
import re
from typing import Any, Final, NamedTuple

from broker.messages.round import RoundTask
from client_fn.data.shard_cache import Shard
from client_fn.errors import TrainerDied
from client_fn.site import Site
from client_fn.trainer import settings
from client_fn.trainer.answers import Answer
from client_fn.training import orders

VALUES_KEPT: Final = 64

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Judged(NamedTuple):
    """A judgement, as an update's header has it.

    Attributes:
        judged: number of held-out samples.
        evaluation: the client's own values, by metric.
    """

    judged: int
    evaluation: dict[str, float]


def order_of(task: RoundTask, site: Site, left_s: float) -> orders.Evaluate:
    """Return the order of a task that is only to judge the round's model.

    Args:
        task: the task.
        site: the site's settings.
        left_s: seconds until the task's deadline.
    """
    training = task.training_hyperparameters
    return orders.Evaluate(
        model=settings.model(task.model_configuration),
        evaluation=settings.evaluation(task.evaluation),
        learner=settings.learner(task.learner),
        training=settings.training(training),
        device=site.device or training.device or "cpu",
        left_s=left_s,
        held_out=True,
        model_seed=task.model_seed,
        personal=task.model_configuration.personal,
        frozen_digest=task.frozen_digest,
    )


def facts_of(answer: Answer, shard: Shard | None) -> Judged:
    """Return what a trainer's answer says about a judgement. The user's code may have made anything of it.

    Args:
        answer: the trainer's answer.
        shard: the client's data, which limits the number of samples.

    Raises:
        TrainerDied: the number of samples is none.
    """
    judged, values = answer.facts.get("judged", 0), answer.facts.get("evaluation")
    if not isinstance(judged, int) or isinstance(judged, bool) or judged < 0:
        raise TrainerDied("the trainer's answer does not say how many samples it has judged the model with")
    most = judged if shard is None or shard.samples is None else shard.samples
    return Judged(min(judged, most), _finite(values) if judged else {})


def _finite(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    named = {name: value for name, value in values.items() if _NAME.fullmatch(str(name)) and _is_finite(value)}
    return dict(list(named.items())[:VALUES_KEPT])


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
