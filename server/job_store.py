"""A job's memory on the broker: its record, changed by compare-and-set only, and the models that the record names."""

import asyncio
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

    Args:
        broker: keeps them.
        record: the job's record.
        revision: the record's revision on the broker, for the next compare-and-set; 0: it is not there yet.

    Attributes:
        record: the job's record, as this server last read or changed it.
        weights: the global model that `record.model` names, as a safetensors file; empty before it is loaded.
    """

    def __init__(self, broker: Broker, record: JobRecord, revision: int) -> None:
        self.record = record
        self.weights = b""
        self._broker = broker
        self._revision = revision
        self._changing = asyncio.Lock()
        self._previous_model: BlobRef | None = None

    async def change(self, **changes: Any) -> None:
        """Change fields of the record. Changes wait for each other.

        Raises:
            Conflict: another server has changed the record since this one read it.
        """
        async with self._changing:
            record = msgspec.structs.replace(self.record, **changes)
            topic = topics.job_record(record.id)
            self._revision = await self._broker.put(topic, codec.encode(record), revision=self._revision)
            self.record = record

    async def publish(self, state: GlobalState) -> tuple[BlobRef, BlobRef | None]:
        """Publish a global state, the model and the server state each under its digest.

        Returns:
            The references to the model and to the server state; None if there is no server state.

        Raises:
            PayloadTooLarge: the broker does not take a value of this size.
            StorageFull: the broker has no room.
        """
        self.weights = tensors.encode(state.weights)
        model = await self._put(self.weights)
        return model, await self._put(tensors.encode(state.server_state)) if state.server_state else None

    async def load_state(self) -> GlobalState:
        """Load the global state that the record names.

        Raises:
            CorruptPayload: the model or the server state is missing or does not match its digest.
        """
        record = self.record
        self.weights = b"" if record.model is None else await self._get(record.model)
        server_state: Tensors = (
            {} if record.server_state is None else tensors.decode(await self._get(record.server_state))[0]
        )
        return GlobalState(tensors.decode(self.weights)[0], server_state)

    async def delete_superseded(self, opened: JobRecord) -> None:
        """Delete a round's updates, superseded client states and the model before the previous one.

        Args:
            opened: the record as it was while the round was open.
        """
        await self._broker.purge(topics.round_updates(opened.id, opened.round))
        superseded, self._previous_model = self._previous_model, opened.model
        if superseded is not None and superseded not in (opened.model, self.record.model):
            await self._broker.purge(superseded.topic)
        for client, states in opened.client_states.items():
            kept = self.record.client_states.get(client, {}).values()
            for state in states.values():
                if state not in kept:
                    await self._broker.purge(state.topic)

    async def delete_last_updates(self) -> None:
        """Delete the updates of the last completed round, which are left if a crash came before their deletion."""
        if self.record.last is not None:
            await self._broker.purge(topics.round_updates(self.record.id, self.record.last.round))

    async def clean_up(self) -> None:
        """Delete an ended job's updates, client states and secret. The record, progress and last models stay."""
        await self._broker.purge(topics.job_updates(self.record.id))
        await self._broker.purge(topics.job_states(self.record.id))
        await self._broker.purge(topics.secret(self.record.id))

    async def _put(self, blob: bytes) -> BlobRef:
        digest = hashlib.sha256(blob).hexdigest()
        topic = topics.model(self.record.id, digest)
        await self._broker.put(topic, blob)
        return BlobRef(topic, digest, len(blob))

    async def _get(self, blob: BlobRef) -> bytes:
        value = await self._broker.get(blob.topic)
        if value is None:
            raise CorruptPayload(blob.topic, "it is missing")
        if hashlib.sha256(value.payload).hexdigest() != blob.sha256:
            raise CorruptPayload(blob.topic, "its bytes do not have its digest")
        return value.payload


async def get_or_create_secret(broker: Broker, job: str, make_secret: Callable[[], str]) -> str:
    """Return a job's secret. If several servers create one, the first write wins.

    Args:
        broker: keeps the secret.
        job: the job's id.
        make_secret: returns an unguessable text, for a job without a secret.

    Raises:
        CorruptPayload: the broker does not return the secret that was just written.
    """
    topic = topics.secret(job)
    value = await broker.get(topic)
    if value is None:
        await broker.put(topic, make_secret().encode())
        value = await broker.get(topic)
    if value is None:
        raise CorruptPayload(topic, "it is missing")
    return value.payload.decode()
