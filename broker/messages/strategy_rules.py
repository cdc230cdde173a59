"""The rules of a job about its strategy: what can't be combined, and how many updates it needs."""

from collections.abc import Callable
from typing import Final

from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.strategy import (
    FedDyn,
    FedNova,
    FixedGuard,
    Krum,
    Median,
    QFedAvg,
    Scaffold,
    Strategy,
    TrimmedMean,
    client_half,
    name_of,
    rule_of,
)
from broker.messages.update_forms import ROUNDED

MEDIAN_UPDATES: Final = 3
"""Fewest updates whose median one client can't move at will."""

_NEEDS_SGD: Final = (FedNova, Scaffold, QFedAvg)
_NEEDS_DELTAS: Final = (FedNova, Scaffold, QFedAvg, Krum)
_MOMENTUM: Final = "momentum"


def _check_parts(job: Job) -> None:
    for part in ("over", "local"):
        nested = getattr(job.strategy, part, None)
        if nested is not None and nested.guard is not None:
            raise JobError(f"strategy.{part}.guard", None, "belongs to the strategy itself: strategy.guard")


def _check_updates(job: Job) -> None:
    """Check that a round has enough updates for a rule that leaves some of them out."""
    rule, needed = rule_of(job.strategy), job.cohort.needed
    field, name = _named(job.strategy, rule)
    if isinstance(rule, Median) and needed < MEDIAN_UPDATES:
        allowed = f"needs cohort.quorum of at least {MEDIAN_UPDATES}: the median of fewer updates is their mean"
        raise JobError(field, name, allowed)
    if isinstance(rule, TrimmedMean) and int(rule.share * needed) < 1:
        allowed = f"leaves out none of the {needed} updates of a quorum: at least {1 / needed:.3g}"
        raise JobError(f"{field.removesuffix('name')}share", rule.share, allowed)
    if isinstance(rule, Krum):
        least = max(2 * rule.faulty + 3, rule.keep + rule.faulty)
        if needed < least:
            allowed = f"with faulty = {rule.faulty} and keep = {rule.keep} a quorum of at least {least} is needed"
            raise JobError(field, name, f"{allowed}, and it is {needed}")


def _check_optimizer(job: Job) -> None:
    """Check that the clients' optimizer is one that the strategy's arithmetic is right for."""
    training = job.training
    rule = next((each for each in (job.strategy, rule_of(job.strategy)) if isinstance(each, _NEEDS_SGD)), None)
    if rule is None:
        return
    field, name = _named(job.strategy, rule)
    if training.optimizer.lower() != "sgd":
        raise JobError(field, name, f"needs training.optimizer = 'sgd', and it is {training.optimizer!r}")
    allowed = {_MOMENTUM} if isinstance(rule, FedNova) else set()
    if others := sorted(training.optimizer_args.keys() - allowed):
        reason = f"its arithmetic holds for sgd without {others[0]}: remove training.optimizer_args.{others[0]}"
        raise JobError(field, name, reason)
    if training.scheduler and not isinstance(rule, Scaffold):
        raise JobError(field, name, "needs one learning rate in a round: remove training.scheduler")
    if isinstance(rule, QFedAvg) and any(override.learning_rate is not None for override in job.override):
        raise JobError(field, name, "needs the same learning rate at all clients: remove override.learning_rate")


def _check_deltas(job: Job) -> None:
    strategy, training = job.strategy, job.training
    is_needed = strategy.guard is not None or isinstance(rule_of(strategy), _NEEDS_DELTAS)
    if is_needed and training.update == "weights":
        what = "strategy.guard" if strategy.guard is not None else name_of(rule_of(strategy))
        raise JobError("training.update", training.update, f"{what} needs 'delta'")


def _check_rounded(job: Job) -> None:
    """Check that the server need not know exactly by how much a client's model has changed."""
    if job.training.update in ROUNDED and isinstance(job.strategy, FedDyn):
        reason = "feddyn needs 'delta': clients add up their exact changes, and the server must add up the same"
        raise JobError("training.update", job.training.update, reason)


def _check_dry(job: Job) -> None:
    if job.training.dry and isinstance(client_half(job.strategy), Scaffold | QFedAvg):
        raise JobError("training.dry", True, f"the strategy {name_of(job.strategy)!r} needs a training")


def _check_guard(job: Job) -> None:
    if isinstance(job.strategy.guard, FixedGuard) and isinstance(job.strategy, Scaffold):
        reason = "one norm can't bound both the changes and the controls: use 'median'"
        raise JobError("strategy.guard.name", "fixed", reason)


def _named(strategy: Strategy, rule: Strategy) -> tuple[str, str]:
    """Return the field that names a rule, and the name."""
    return ("strategy.name" if rule is strategy else "strategy.over.name"), name_of(rule)


RULES: Final[tuple[Callable[[Job], None], ...]] = (
    _check_parts,
    _check_updates,
    _check_optimizer,
    _check_deltas,
    _check_rounded,
    _check_dry,
    _check_guard,
)
