"""The models that jobs leave on the broker: the last one, the best one, and those that a job keeps."""

import hashlib
from typing import Literal

from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages.errors import NoSuchModel
from broker.messages.job_record import JobRecord
from broker.messages.round import BlobRef

Which = Literal["last", "best"] | int
"""The last model, the best one, or that of a round."""


def find(record: JobRecord, which: Which) -> BlobRef:
    """Return where a model of a job is.

    Args:
        record: the job's record.
        which: which of its models.

    Raises:
        NoSuchModel: the job has no such model; the message says which ones it has.
    """
    kept = by_round(record)
    if which == "last" and record.model is not None:
        return record.model
    if which == "best" and record.best is not None:
        return record.best.model
    if isinstance(which, int) and which in kept:
        return kept[which]
    raise NoSuchModel(record.id, which, tuple(sorted(kept)))


def by_round(record: JobRecord) -> dict[int, BlobRef]:
    """Return the models that a job has, by round; 0 is the initial one."""
    kept = dict(record.kept)
    if record.best is not None:
        kept[record.best.round] = record.best.model
    if record.model is not None:
        kept[0 if record.last is None else record.last.round] = record.model
    return kept


async def read(broker: Broker, record: JobRecord, which: Which = "last") -> bytes:
    """Return a model of a job, as a safetensors file.

    It has all tensors but the personal ones and, with `model.frozen = "site"`, those that each site makes itself.

    Args:
        broker: has the models.
        record: the job's record.
        which: which of its models.

    Raises:
        NoSuchModel: the job has no such model.
        CorruptPayload: the broker has lost it.
    """
    model = await get(broker, find(record, which))
    return model if record.frozen_model is None else join(model, await get(broker, record.frozen_model))


async def get(broker: Broker, blob: BlobRef) -> bytes:
    """Return the bytes of a reference.

    Args:
        broker: has them.
        blob: the reference.

    Raises:
        CorruptPayload: they are missing or do not have their digest.
    """
    value = await broker.get(blob.topic)
    if value is None:
        raise CorruptPayload(blob.topic, "it is missing")
    if hashlib.sha256(value.payload).hexdigest() != blob.sha256:
        raise CorruptPayload(blob.topic, "its bytes do not have its digest")
    return value.payload


def join(model: bytes, frozen: bytes) -> bytes:
    """Return one safetensors file of a round's tensors and of those that no client trains.

    Args:
        model: the file of the round.
        frozen: the file of the others.
    """
    # Imported here because a program that only lists jobs would pay for it.
    from broker.messages import tensors

    return tensors.encode({**tensors.decode(frozen)[0], **tensors.decode(model)[0]})
