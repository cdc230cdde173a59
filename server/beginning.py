"""Makes a job's first model: as its class constructs it, or from an earlier one as `model.from` says."""

import dataclasses
import hashlib
from typing import NamedTuple

from broker import topics
from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages import codec, tensors
from broker.messages.errors import BadTensors, MessageError, NoSuchModel
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.reports import StartReport
from broker.messages.tensors import Tensors
from broker.messages.update_forms import SCALES
from server import models, start_model
from server.errors import LearningFailed
from server.learning import InitialModel, Learning


class Beginning(NamedTuple):
    """A job's first model.

    Attributes:
        model: the model.
        start: what was taken of an earlier one; None: the job names none.
    """

    model: InitialModel
    start: StartReport | None


async def begin(job: Job, learning: Learning, broker: Broker) -> Beginning:
    """Make a job's first model.

    Args:
        job: says which one.
        learning: builds models, and reads them from files.
        broker: has the models of other jobs.

    Raises:
        LearningFailed: it can't be built, the model that it starts from can't be used, or it uses the name of the
            tensor with an update's scales.
        LearningDied: the process that builds it ended.
    """
    initial = await learning.initial_model(job)
    if job.training.update == "int8" and SCALES in initial.weights.keys() - set(initial.frozen):
        # Each client would fail with the same sentence, in every round.
        raise LearningFailed(f"training.update = 'int8' needs the name {SCALES}: the model must not use it")
    if not job.model.start:
        return Beginning(initial, None)
    earlier = await _earlier(job, learning, broker)
    # What each site makes itself must be what the class constructs.
    own = initial.frozen if job.model.frozen == "site" else ()
    weights, report = start_model.take(initial.weights, earlier, job.model.start, own)
    return Beginning(dataclasses.replace(initial, weights=weights), report)


async def made_by_sites(record: JobRecord, learning: Learning) -> Tensors:
    """Make the tensors again that each site makes itself.

    Args:
        record: the job's record, which has their digest.
        learning: builds models.

    Raises:
        LearningFailed: the model can't be built, or its frozen tensors are others than at the job's start.
        LearningDied: the process that builds it ended.
    """
    initial = await learning.initial_model(record.job)
    made = {name: initial.weights[name] for name in record.frozen if name in initial.weights}
    if hashlib.sha256(tensors.encode(made)).hexdigest() != record.frozen_digest:
        reason = "the tensors that no client trains are not constructed as at the job's start"
        raise LearningFailed(f"model.frozen = 'site': {reason}: the same code and seed must make the same ones")
    return made


async def _earlier(job: Job, learning: Learning, broker: Broker) -> Tensors:
    start = job.model.start
    name, _, round_ = start.removeprefix("job:").partition("@")
    try:
        if start.startswith("job:"):
            content = await _of_job(name, int(round_) if round_ else None, broker)
        else:
            content = await learning.read_model(start)
        return tensors.decode(content)[0]
    except (MessageError, CorruptPayload) as exc:
        reason = "it is no safetensors file" if isinstance(exc, BadTensors) else str(exc)
        raise LearningFailed(f"model.from = {start!r}: {reason}") from exc


async def _of_job(job: str, round_: int | None, broker: Broker) -> bytes:
    value = await broker.get(topics.job_record(job))
    if value is None:
        raise NoSuchModel(job, None, ())
    record = codec.decode(JobRecord, value.payload)
    if round_ is None:
        return await models.read(broker, record, "last" if record.best is None else "best")
    return await models.read(broker, record, round_)
