"""A job's memory on the broker: its record, changed by compare-and-set only, and the models that the record names."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from broker import topics
from broker.base import Broker
from broker.errors import Conflict, CorruptPayload
from broker.messages import codec, job_record, tensors
from broker.messages.job_record import JobRecord
from broker.messages.round import BlobRef
from broker.messages.state_table import ClientState, StateTable
from broker.messages.tensors import Tensors
from server import models, removal, state_tables
from server.held import Held
from server.state_tables import StateTables
from server.strategies.base import GlobalState


class Published(NamedTuple):
    """References to a published global state; the names are those of the record's fields.

    Attributes:
        model: the model.
        server_state: the strategy's own tensors; None: it has none.
        along: what goes along with the tasks; None: nothing does.
    """

    model: BlobRef
    server_state: BlobRef | None
    along: BlobRef | None


class JobStore:
    """A job's record and models on a broker.

    Args:
        broker: keeps them.
        record: the job's record.
        revision: the record's revision on the broker, for the next compare-and-set; 0: it is not there yet.
        started: the steps of the job that this process has started; see `server.attempts`. None: none.
        held: gets what is written and read; None: nobody needs it.

    Attributes:
        started: see above.
        record: the job's record, as this server last read or changed it.
        weights: the newest global model with all tensors, as a safetensors file; empty before it is loaded.
        states: what clients' next tasks name of their earlier rounds.
    """

    def __init__(
        self,
        broker: Broker,
        record: JobRecord,
        revision: int,
        started: set[str] | None = None,
        held: Held | None = None,
    ) -> None:
        self.started = set() if started is None else started
        self.record = record
        self.weights = b""
        self.states = StateTables(record)
        self._held = Held() if held is None else held
        self._held.note_record(record)
        self._broker = broker
        self._revision = revision
        self._changing = asyncio.Lock()
        self._deleted: set[BlobRef] = set()

    async def change(self, **changes: Any) -> None:
        """Change fields of the record. Changes wait for each other.

        Raises:
            Conflict: another server has changed the record since this one read it.
            DecodeError: nobody could read the changed record, for example because a number in it is not finite.
        """
        async with self._changing:
            record = msgspec.structs.replace(self.record, **changes, changes=self.record.changes + 1)
            # What stays the same was readable before. It may be a cohort of thousands.
            codec.encode_readable(JobRecord(**{"id": record.id, "job": record.job, **changes}))
            topic, content = topics.job_record(record.id), codec.encode(record)
            self._revision = await self._broker.put(topic, content, revision=self._revision)
            self.record = record
            self._held.note_record(record)

    async def confirm(self) -> None:
        """Check that no other server has changed the record since this one read or changed it.

        Raises:
            Conflict: another server has changed it.
        """
        async with self._changing:
            topic = topics.job_record(self.record.id)
            value = await self._broker.get(topic)
            revision = 0 if value is None else value.revision
            if revision != self._revision:
                raise Conflict(topic, self._revision)

    def take(self, state: GlobalState) -> GlobalState:
        """Take a new global state, and return it with a model that shares the memory of its file.

        Nobody should keep the one that was passed: a large model would be in memory twice.
        """
        self.weights = tensors.encode(state.weights)
        return GlobalState(tensors.decode(self.weights)[0], state.server_state)

    async def publish(self, state: GlobalState, along: Tensors, frozen: Collection[str] = ()) -> Published:
        """Publish a global state and what goes along with the tasks, each under its digest.

        Args:
            state: the model and the server state, as `take` has returned it.
            along: tensors that every task refers to.
            frozen: names of the model's tensors that no client trains: they are not published with each model.

        Raises:
            PayloadTooLarge: the broker does not take a value of this size.
            StorageFull: the broker has no room.
        """
        trained = {name: tensor for name, tensor in state.weights.items() if name not in frozen}
        return Published(
            model=await self._put(tensors.encode(trained) if frozen else self.weights),
            server_state=await self._put(tensors.encode(state.server_state)) if state.server_state else None,
            along=await self._put(tensors.encode(along)) if along else None,
        )

    async def publish_frozen(self, frozen: Tensors) -> dict[str, Any]:
        """Publish the tensors that no client trains, unless each site makes them; return what the record gets of them.

        Raises:
            PayloadTooLarge: the broker does not take a value of this size.
            StorageFull: the broker has no room.
        """
        if not frozen:
            return {}
        content = tensors.encode(frozen)
        if self.record.job.model.frozen == "site":
            return {"frozen_digest": hashlib.sha256(content).hexdigest()}
        return {"frozen_model": await self._put(content)}

    async def publish_states(self, new: Mapping[str, ClientState]) -> dict[str, Any]:
        """Publish what a round has left for clients' next tasks, and return the changes of the record that name it.

        Args:
            new: by client, of the round's counted updates.

        Raises:
            StorageFull: the broker has no room.
        """
        table = self.states.next_table(self.record, new)
        if table is None:
            return {}
        earlier = () if state_tables.is_full(self.record) else self.record.state_tables
        return {"state_tables": (*earlier, await self._put(codec.encode(table))), "states": {}}

    async def load_state(self, made_by_sites: Tensors | None = None) -> GlobalState:
        """Load the global state that the record names, and the clients' states.

        Args:
            made_by_sites: the model's tensors that were never published; None: there are none.

        Raises:
            CorruptPayload: the model, the server state or a table is missing or does not match its digest.
        """
        record = self.record
        for table in record.state_tables:
            content = await models.get(self._broker, table)
            self._held.note_blob(record.id, table.topic, content)
            self.states.read(codec.decode(StateTable, content))
        content = b"" if record.model is None else await models.read(self._broker, record)
        if record.model is not None and record.frozen_model is None:
            self._held.note_blob(record.id, record.model.topic, content)
        self.weights = models.join(content, tensors.encode(made_by_sites)) if made_by_sites else content
        state = record.server_state
        server_state = {} if state is None else tensors.decode(await models.get(self._broker, state))[0]
        return GlobalState(tensors.decode(self.weights)[0], server_state)

    def superseded(self, opened: JobRecord) -> tuple[BlobRef, ...]:
        """Return the models to delete later, for the change of the record that supersedes a round's model.

        Args:
            opened: the record as it is while the round is open.
        """
        best = [] if opened.best is None else [opened.best.model]
        models = [] if opened.model is None else [opened.model]
        return tuple(dict.fromkeys(blob for blob in (*opened.superseded, *best, *models) if blob not in self._deleted))

    async def delete_superseded(self, opened: JobRecord) -> None:
        """Delete a round's updates, superseded states, the models before the previous one and earlier best ones.

        Args:
            opened: the record as it was while the round was open.
        """
        await self._broker.purge(topics.round_updates(opened.id, opened.round))
        await self._delete_superseded_models(but=opened.model)
        kept_blobs = job_record.blobs(self.record)
        for blob in (opened.server_state, opened.along, *opened.state_tables, *self.states.take_superseded()):
            if blob is not None and blob not in kept_blobs:
                await self._broker.purge(blob.topic)

    async def _delete_superseded_models(self, but: BlobRef | None) -> None:
        """Delete the models that the record calls superseded, but those that it needs and that of the last round."""
        record = self.record
        needed = {*job_record.blobs(record), but}
        for model in record.superseded:
            if model not in needed and model not in self._deleted:
                await self._broker.purge(model.topic)
                self._deleted.add(model)

    async def delete_last_updates(self) -> None:
        """Delete the updates of the round before the open one, which are left if a crash came before their deletion."""
        over = self.record.round - bool(self.record.cohort)
        if over:
            await self._broker.purge(topics.round_updates(self.record.id, over))

    async def clean_up(self) -> None:
        """Delete an ended job's updates, client states and secret, and models that its record does not name."""
        await self._broker.purge(topics.secret(self.record.id))
        await removal.delete_leftovers(self._broker, self.record)

    async def _put(self, blob: bytes) -> BlobRef:
        digest = hashlib.sha256(blob).hexdigest()
        topic = topics.model(self.record.id, digest)
        self._held.note_blob(self.record.id, topic, blob)
        await self._broker.put(topic, blob)
        return BlobRef(topic, digest, len(blob))


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
