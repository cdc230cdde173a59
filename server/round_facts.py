"""Functions of the job record: the expectation of the open round, and the events of its end. No I/O.

`server.client_events` has the events about single clients.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from broker.messages.job_record import JobRecord
from broker.messages.progress import (
    Event,
    JobCancelled,
    JobCompleted,
    JobFailed,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
)
from broker.messages.round import BlobRef, PersonalRef
from broker.messages.state_table import ClientState
from broker.messages.strategy import client_half, name_of
from broker.messages.tensors import Tensors
from broker.messages.update import checked_processor
from broker.messages.update_forms import form_of
from broker.support import texts
from server import aggregator, codecs, cohort, gate, timing
from server.collection import Collection
from server.gate import Expectation
from server.rounds import RoundEvent
from server.strategies.base import ModelInfo, Strategy

MAX_PROCESSORS: Final = 32
"""Most kinds of processor that a job's record names; further ones are counted as not told."""

_NAMES_SHOWN: Final = 3
_CAUSES_SHOWN: Final = 2
"""A reason is a line: so many clients, and so many causes of their failures, are in it."""

_CAUSE_LENGTH: Final = 400
"""Most characters of a cause in a reason."""

_NUMBERS: Final = re.compile(r"\d+")


def opened_event(record: JobRecord) -> RoundOpened:
    """The event of the open round."""
    trainers = cohort.ids(record.cohort, "train")
    return RoundOpened(
        round=record.round,
        cohort=trainers,
        quorum=min(record.job.cohort.needed, len(trainers)),
        deadline_s=record.deadline_s,
        resumed=record.invited or record.renewed_s > 0,
        evaluators=cohort.ids(record.cohort, "evaluate"),
    )


def is_to_judge(record: JobRecord) -> bool:
    """Whether nobody trains in the open round: it only judges the job's last model."""
    return bool(record.cohort) and not cohort.ids(record.cohort, "train")


def model_info(record: JobRecord, weights: Tensors) -> ModelInfo:
    """The global model, its tensors told apart.

    Args:
        record: the job's record.
        weights: every tensor of the model.
    """
    return ModelInfo(weights, frozenset(record.frozen), frozenset(record.buffers))


def expectation(record: JobRecord, weights: Tensors, nonce: str, strategy: Strategy) -> Expectation:
    """What the open round expects of an update.

    Args:
        record: the job's record.
        weights: the global model that the round starts from.
        nonce: secret text from which the round's tokens are made.
        strategy: the job's strategy.

    Raises:
        ValueError: the job has no model yet.
    """
    job, model = record.job, model_info(record, weights)
    half = client_half(job.strategy)
    base = {**model.trained, **strategy.auxiliary(model)}
    # What the job allows, not what the register happens to know: the last bits of the mean depend on it.
    most = job.cohort.invited * strategy.max_weight()
    plan = aggregator.plan(base, model.buffers, most, job.training.headroom)
    return Expectation(
        job=record.id,
        round=record.round,
        base=model_of(record).sha256,
        nonce=nonce,
        members={member.id: member for member in record.cohort},
        plan=plan,
        max_samples=job.cohort.max_samples,
        start=model.trained,
        form=form_of(job.training.update),
        codec=codecs.of(job.training.update, plan.layout, model.weights),
        strategy="" if half is None else name_of(half),
        needs=strategy.needs,
        takes_sums=job.is_judged_by_clients,
        has_personal=bool(record.personal),
        max_attempts=max(gate.MIN_ATTEMPTS, 2 * job.cohort.max_attempts),
    )


def model_of(record: JobRecord) -> BlobRef:
    """The job's global model.

    Raises:
        ValueError: the job has no model yet.
    """
    if record.model is None:
        raise ValueError(f"{record.id} has no model yet")
    return record.model


def completed_event(record: JobRecord, collection: Collection, model: BlobRef, *, committed_s: float) -> RoundCompleted:
    """The event of a round whose result is the next global model.

    Args:
        record: the job's record while the round is open.
        collection: what the round has collected.
        model: the new global model.
        committed_s: when the new model was committed, in seconds on the collector's clock.
    """
    headers = collection.headers
    return RoundCompleted(
        round=record.round,
        counted=tuple(sorted(headers)),
        missing=_missing(record, collection),
        samples=sum(header.samples for header in headers.values()),
        model=model,
        split=timing.split(
            opened_s=collection.opened_s,
            invited_s=collection.invited_s,
            training_s=collection.training_s,
            last_s=collection.last_s,
            committed_s=committed_s,
        ),
        trained_s=sum(header.seconds.get("train", 0.0) for header in headers.values()),
        metrics=timing.weighted_means({client: (each.samples, each.metrics) for client, each in headers.items()}),
        bytes_in=collection.bytes_in,
        bytes_out=sum(header.fetched for header in headers.values()),
    )


def failed_event(record: JobRecord, collection: Collection, *, is_last: bool = False) -> RoundFailed:
    """The event of a round without quorum. Its reason begins with what most of the missing clients failed of.

    Args:
        record: the job's record while the round is open.
        collection: what the round has collected.
        is_last: whether the job ends with it.
    """
    counted, missing = tuple(sorted(collection.headers)), _missing(record, collection)
    is_late = collection.round.ended_by is RoundEvent.DEADLINE
    end = "when the deadline passed" if is_late else "and too few clients are left"
    waiting = [client for client in missing if client not in collection.failures]
    parts = [
        *_causes({client: collection.failures[client] for client in missing if client in collection.failures}),
        f"{len(counted)} of {collection.round.needed} needed updates {end}",
    ]
    if is_late or not collection.failures:
        # The others had their time.
        parts += _said_of("still training", [client for client in waiting if client in collection.training])
        parts += _said_of("no word of", [client for client in waiting if client not in collection.training])
    return RoundFailed(
        round=record.round,
        reason="; ".join(parts),
        counted=counted,
        missing=missing,
        policy="stop" if is_last else record.job.cohort.on_failure,
    )


def is_hopeless(record: JobRecord, collection: Collection, holders: Iterable[str]) -> bool:
    """Whether another round would fail of the same thing: those that failed for good put the quorum out of its reach.

    A job that has trained already gives its clients another chance, unless all of them failed so.

    Args:
        record: the job's record while the failed round is open.
        collection: what the round has collected.
        holders: ids of the clients that hold the job's data.
    """
    cohort_ids = cohort.ids(record.cohort, "train")
    left = set(holders) - collection.hopeless
    if collection.headers or len(left) >= min(record.job.cohort.needed, len(cohort_ids)):
        return False
    return record.done == 0 or collection.hopeless.issuperset(cohort_ids)


def after_failure(
    record: JobRecord, collection: Collection, holders: Iterable[str]
) -> tuple[RoundFailed, dict[str, Any]]:
    """The event of a round without quorum, and the changes of the record: the job's end, if its policy is that.

    Args:
        record: the job's record while the round is open.
        collection: what the round has collected.
        holders: ids of the clients that hold the job's data.
    """
    rules, failures = record.job.cohort, record.failures + 1
    is_same_again = is_hopeless(record, collection, holders)
    is_last = is_same_again or rules.on_failure == "stop" or failures >= rules.max_failures
    event = failed_event(record, collection, is_last=is_last)
    changes: dict[str, Any] = {"cohort": (), "failures": failures, "failed": event}
    if is_last:
        end = "and another one would fail in the same way" if is_same_again else f"{failures} in a row"
        # The cause comes first: where there is little room, the end is not shown.
        changes |= {"phase": "failed", "reason": f"{event.reason}; round {record.round} failed, {end}"}
    return event, changes


def _causes(failures: dict[str, str]) -> list[str]:
    """Say what most clients failed of, and who they are."""
    alike: dict[str, list[str]] = defaultdict(list)
    for client, reason in failures.items():
        # Clients fail of the same thing at files and addresses of their own.
        alike[_NUMBERS.sub("#", reason.replace(client, "#"))].append(client)
    most = sorted(alike.values(), key=lambda clients: (-len(clients), clients))[:_CAUSES_SHOWN]
    return [f"{texts.abridged(failures[clients[0]], _CAUSE_LENGTH)} ({_names(clients)})" for clients in most]


def _said_of(what: str, clients: list[str]) -> list[str]:
    return [f"{what}: {_names(clients)}"] if clients else []


def _names(clients: list[str]) -> str:
    more = len(clients) - _NAMES_SHOWN
    return ", ".join(clients[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _missing(record: JobRecord, collection: Collection) -> tuple[str, ...]:
    return tuple(sorted(set(cohort.ids(record.cohort, "train")) - collection.headers.keys()))


def client_states(record: JobRecord, collection: Collection) -> dict[str, ClientState]:
    """What a round's counted updates have left for their clients' next tasks, by client id.

    Args:
        record: the job's record while the round is open.
        collection: what the round has collected.
    """
    headers = collection.headers.items()
    if not record.personal:
        return {client: ClientState(each.states) for client, each in headers}
    return {
        client: ClientState(each.states, PersonalRef(each.round, each.attempt, each.personal))
        for client, each in headers
    }


def kept_models(record: JobRecord, model: BlobRef) -> dict[int, BlobRef]:
    """The models that `model.keep_every` keeps after a round, by round.

    Args:
        record: the job's record while the round is open.
        model: the round's model.
    """
    every = record.job.model.keep_every
    return record.kept | ({record.round: model} if every and (record.done + 1) % every == 0 else {})


def processors(record: JobRecord, collection: Collection) -> dict[str, int]:
    """The number of counted updates by the kind of processor that trained them, with those of the open round.

    Args:
        record: the job's record while the round is open.
        collection: what the round has collected.
    """
    numbers = dict(record.processors)
    for _, header in sorted(collection.headers.items()):
        kind = checked_processor(header.processor)
        # What clients say must not make the record grow without end.
        known = kind if kind in numbers or len(numbers) < MAX_PROCESSORS else ""
        numbers[known] = numbers.get(known, 0) + 1
    return numbers


def end_event(record: JobRecord) -> Event:
    """The event of an ended job.

    Raises:
        ValueError: the job is completed and has no model.
    """
    match record.phase:
        case "failed":
            return JobFailed(reason=record.reason)
        case "cancelled":
            return JobCancelled(rounds=record.done, model=record.model)
        case _:
            best = record.best
            return JobCompleted(
                reason=record.reason,
                rounds=record.done,
                accuracy=record.accuracy,
                model=model_of(record),
                metrics=record.metrics,
                best_round=None if best is None else best.round,
                best=None if best is None else best.model,
                processors=record.processors,
            )


def end_facts(record: JobRecord) -> dict[str, object]:
    """What a log says of an ended job: its rounds, why it ended, and the metric that decides, or else the first one."""
    metrics = dict(record.metrics) or ({} if record.accuracy is None else {"accuracy": record.accuracy})
    wanted = (record.job.evaluation.best, record.job.stop.metric, "accuracy", *metrics)
    name = next((name for name in wanted if name in metrics), None)
    facts: dict[str, object] = {"phase": record.phase, "rounds": record.done}
    if name is not None:
        facts["result"] = f"{name} {metrics[name]:.4f}"
    if record.reason:
        facts["reason"] = record.reason
    return facts
