"""Invites a round's cohort: one small task message for each member."""

from collections.abc import Container
from typing import Final

import msgspec

from broker import topics
from broker.base import Broker
from broker.errors import PayloadTooLarge
from broker.messages import cloudevents
from broker.messages.cloudevents import Envelope
from broker.messages.job_record import JobRecord, Member
from broker.messages.round import OPTIMIZER_STATE, RoundTask, seed, token
from broker.messages.strategy import FedAvg, Strategy, client_half
from broker.support.tasks import task_group
from server import training
from server.round_facts import model_of
from server.state_tables import StateTables

AT_ONCE: Final = 512
"""The most tasks that are published at the same time: further ones would only lie in memory."""

TASK_BYTES: Final = 100_000
"""Limit of a trigger: Eventarc takes 512 kB, OpenWhisk 1 MiB, OpenFaaS's queue 256 kB."""


async def send(
    broker: Broker,
    record: JobRecord,
    nonce: str,
    lasts_s: float | None = None,
    states: StateTables | None = None,
    *,
    only: Container[str] | None = None,
) -> None:
    """Publish the tasks of the open round; return when the broker has them all.

    Args:
        broker: takes the tasks.
        record: the job's record.
        nonce: secret text from which the round's tokens are made.
        lasts_s: seconds until the round's deadline; None: the job's `cohort.deadline_s`.
        states: what the clients' earlier rounds have left; None: what the record itself has.
        only: the ids of the members that are invited; None: all.

    Raises:
        PayloadTooLarge: a task is larger than a trigger may be.
        ValueError: the job has no model yet.
    """
    members = iter([member for member in record.cohort if only is None or member.id in only])

    async def invite_next() -> None:
        for member in members:
            await _publish(broker, task_for(member, record, nonce, lasts_s, states), record)

    async with task_group() as group:
        for number in range(min(AT_ONCE, len(record.cohort))):
            group.create_task(invite_next(), name=f"invite for {record.id}.{record.round} {number}")


def task_for(
    member: Member, record: JobRecord, nonce: str, lasts_s: float | None = None, states: StateTables | None = None
) -> RoundTask:
    """Make a member's task for the open round.

    Args:
        member: the member of the cohort.
        record: the job's record.
        nonce: secret text from which the round's tokens are made.
        lasts_s: seconds until the round's deadline; None: the job's `cohort.deadline_s`.
        states: what the clients' earlier rounds have left; None: what the record itself has.

    Raises:
        ValueError: the job has no model yet.
    """
    job, trains = record.job, member.purpose == "train"
    left = (StateTables(record) if states is None else states).of(member.id)
    begun_from = left.states if trains else {}
    return RoundTask(
        client_id=member.id,
        client_type=member.platform,
        url=member.url,
        model_configuration=job.model,
        data_loc=member.data_loc,
        training_hyperparameters=training.training_of(member, record),
        job=record.id,
        round=record.round,
        model=model_of(record),
        state=begun_from.get(OPTIMIZER_STATE),
        states=begun_from,
        along=record.along if trains else None,
        token=token(nonce, member.id),
        seed=seed(job.seed, record.round, member.id),
        deadline_s=record.deadline_s,
        lasts_s=job.cohort.deadline_s if lasts_s is None else lasts_s,
        max_attempts=job.cohort.max_attempts,
        strategy=_half(job.strategy),
        update=job.training.update,
        learner=job.learner,
        evaluation=job.evaluation if job.is_judged_by_clients else None,
        purpose=member.purpose,
        frozen=record.frozen_model,
        frozen_digest=record.frozen_digest,
        personal=left.own,
        state_loc=member.state_loc,
        model_seed=seed(job.seed, "model"),
        data=job.data,
    )


def _half(strategy: Strategy) -> Strategy:
    """Return what a function must know of a strategy: its client half, which has no guard."""
    half = client_half(strategy)
    return FedAvg() if half is None else msgspec.structs.replace(half, guard=None)


async def _publish(broker: Broker, task: RoundTask, record: JobRecord) -> None:
    envelope = Envelope(task.id, "/server", "round.task", record.opened_s, task.client_id)
    event = cloudevents.encode(envelope, task)
    topic = topics.task(task.client_type, task.client_id)
    if len(event) > TASK_BYTES:
        raise PayloadTooLarge(topic, len(event), TASK_BYTES)
    # A broker remembers ids for a while, also of messages that it has deleted since.
    again = f".{record.renewed_s}" if record.renewed_s else ""
    await broker.publish(topic, event, dedupe=f"{task.id}.{task.token[:16]}{again}")
