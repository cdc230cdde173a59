"""What a job remembers: its record, moved by compare-and-set only, and the models that the record names."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from broker import topics
from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages import codec, tensors
from broker.messages.job_record import JobRecord
from broker.messages.round import BlobRef
from broker.messages.tensors import Tensors
from server.strategy import GlobalState


class JobStore:
    """A job's record and models on a broker.

    Attributes:
        record: as this server last read or moved it.
        weights: the global model that `record.model` names, as a safetensors file; empty before it is known.
    """

    def __init__(self, broker: Broker, record: JobRecord, revision: int) -> None:
        self.record = record
        self.weights = b""
        self._broker = broker
        self._revision = revision
        self._before_last: BlobRef | None = None

    async def move(self, **changes: Any) -> None:
        """Change the record.

        Raises:
            Conflict: another server has moved it since we read it.
        """
        after = msgspec.structs.replace(self.record, **changes)
        topic = topics.job_record(after.id)
        self._revision = await self._broker.put(topic, codec.encode(after), revision=self._revision)
        self.record = after

    async def secret(self, make: Callable[[], str]) -> str:
        """The job's secret; a job that has none yet gets one. See `keep_secret`."""
        return await keep_secret(self._broker, self.record.id, make)

    async def publish(self, state: GlobalState) -> tuple[BlobRef, BlobRef | None]:
        """Publish a global model and the strategy's server_state, each under its digest."""
        self.weights = tensors.encode(state.weights)
        model = await self._put(self.weights)
        return model, await self._put(tensors.encode(state.server_state)) if state.server_state else None

    async def recall(self) -> GlobalState:
        """The global model and the server_state that the record names.

        Raises:
            CorruptPayload: one of them is missing, or other bytes lie under its digest.
        """
        record = self.record
        self.weights = b"" if record.model is None else await self._get(record.model)
        server_state: Tensors = (
            {} if record.server_state is None else tensors.decode(await self._get(record.server_state))[0]
        )
        return GlobalState(tensors.decode(self.weights)[0], server_state)

    async def forget(self, before: JobRecord) -> None:
        """Drop what nobody needs after a round: its updates, superseded optimizer states, the model before the last.

        Args:
            before: the record as it was while the round was open.
        """
        await self._broker.purge(topics.round_updates(before.id, before.round))
        superseded, self._before_last = self._before_last, before.model
        if superseded is not None and superseded not in (before.model, self.record.model):
            await self._broker.purge(superseded.topic)
        for client, state in before.states.items():
            if self.record.states.get(client) != state:
                await self._broker.purge(state.topic)

    async def tidy(self) -> None:
        """Drop the last committed round's updates, if a crash came before `forget`: they are no news any more."""
        if self.record.last is not None:
            await self._broker.purge(topics.round_updates(self.record.id, self.record.last.round))

    async def clean_up(self) -> None:
        """Drop all of an ended job but its record, its progress and its last models; its secret goes too."""
        await self._broker.purge(topics.job_updates(self.record.id))
        await self._broker.purge(topics.job_states(self.record.id))
        await self._broker.purge(topics.secret(self.record.id))

    async def _put(self, blob: bytes) -> BlobRef:
        digest = hashlib.sha256(blob).hexdigest()
        topic = topics.model(self.record.id, digest)
        await self._broker.put(topic, blob)
        return BlobRef(topic, digest, len(blob))

    async def _get(self, blob: BlobRef) -> bytes:
        found = await self._broker.get(blob.topic)
        if found is None:
            raise CorruptPayload(blob.topic, "it is missing")
        if hashlib.sha256(found.payload).hexdigest() != blob.sha256:
            raise CorruptPayload(blob.topic, "its bytes do not have its digest")
        return found.payload


async def keep_secret(broker: Broker, job: str, make: Callable[[], str]) -> str:
    """The secret of a job: the one that was written first, whoever wrote it.

    Args:
        broker: keeps it.
        job: the job's id.
        make: makes an unguessable text, for a job that has no secret yet.

    Raises:
        CorruptPayload: the broker has lost it at once.
    """
    topic = topics.secret(job)
    found = await broker.get(topic)
    if found is None:
        await broker.put(topic, make().encode())
        found = await broker.get(topic)
    if found is None or found.payload is None:
        raise CorruptPayload(topic, "it is missing")
    return found.payload.decode()
