"""What a round is to bring, and what it brought. Pure: the record and what was collected in, facts out."""

from broker.messages import tensors
from broker.messages.job_record import JobRecord
from broker.messages.progress import RoundCompleted, RoundFailed
from broker.messages.round import BlobRef
from broker.messages.tensors import Tensors
from server import aggregator, timing
from server.collecting import Collection
from server.gate import Expected


def expected(record: JobRecord, weights: Tensors, nonce: str) -> Expected:
    """What the open round expects of an update.

    Args:
        record: the job's.
        weights: the global model that the round starts from.
        nonce: the round's.

    Raises:
        ValueError: the job has no model yet.
    """
    most = record.job.cohort.max_samples
    trained = {name: array for name, array in weights.items() if name not in record.frozen}
    total = sum(member.samples or most for member in record.cohort)
    return Expected(
        job=record.id,
        round=record.round,
        base=model_of(record).sha256,
        nonce=nonce,
        members={member.id: member for member in record.cohort},
        plan=aggregator.plan(trained, tensors.layout(trained), frozenset(record.buffers), total),
        max_samples=most,
    )


def model_of(record: JobRecord) -> BlobRef:
    """The job's global model.

    Raises:
        ValueError: it is not published yet.
    """
    if record.model is None:
        raise ValueError(f"{record.id} has no model yet")
    return record.model


def completed_event(
    record: JobRecord, collection: Collection, model: BlobRef, *, invited_s: float, committed_s: float
) -> RoundCompleted:
    """What a round that is committed is announced as.

    Args:
        record: the job's, while the round is open.
        collection: what was counted.
        model: the new global model.
        invited_s: when every task was with the broker, seconds since the epoch.
        committed_s: when the new model was committed, seconds since the epoch.
    """
    headers = collection.headers
    return RoundCompleted(
        round=record.round,
        counted=tuple(sorted(headers)),
        missing=tuple(sorted({member.id for member in record.cohort} - headers.keys())),
        samples=collection.aggregate.samples,
        model=model,
        split=timing.split(
            opened_s=record.opened_s,
            invited_s=invited_s,
            training_s=collection.training_s,
            last_s=collection.last_s,
            committed_s=committed_s,
        ),
        trained_s=sum(header.seconds.get("train", 0.0) for header in headers.values()),
        metrics=timing.weighted({client: (header.samples, header.metrics) for client, header in headers.items()}),
        bytes_in=collection.bytes_in,
        bytes_out=sum(header.fetched for header in headers.values()),
    )


def failed_event(record: JobRecord, collection: Collection) -> RoundFailed:
    """What a round without quorum is announced as; for the arguments see `completed_event`."""
    counted = tuple(sorted(collection.headers))
    reason = f"{len(counted)} of {collection.round.needed} needed updates"
    return RoundFailed(round=record.round, reason=reason, counted=counted, policy=record.job.cohort.on_failure)


def states(record: JobRecord, collection: Collection) -> dict[str, BlobRef]:
    """The optimizer state that each client's next task names, once the round is committed."""
    new = {client: header.state for client, header in collection.headers.items() if header.state is not None}
    return record.states | new
