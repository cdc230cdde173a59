"""The Python SDK: submit jobs, follow them, fetch their models.

async with fedkeeper.connect("nats://fedkeeper@127.0.0.1:4222?password_file=.fedkeeper/broker/password") as fabric:
    job = await fabric.submit(Job(name="quickstart"))
    async for event in fabric.watch(job):
        print(event)
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import broker
from broker import topics
from broker.base import Broker, Delivery
from broker.errors import CorruptPayload
from broker.messages import cloudevents, codec, progress
from broker.messages import job as jobs
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError
from broker.messages.function import Reply, Request, Verb
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.progress import FINAL_EVENTS, JobAccepted, JobRejected, Progress
from broker.messages.register import ClientRecord, ClientStats
from broker.support.tasks import task_group
from fedkeeper.errors import JobRefused, NoBridge, NoSuchJob, NotAnswered

ANSWER_S: Final = 10.0
"""How long a server may take to accept a job."""


class Client:
    """A running FedKeeper system, seen through its broker.

    Attributes:
        broker: for whoever needs more than this class offers.
    """

    def __init__(self, bus: Broker) -> None:
        self.broker = bus

    async def submit(self, spec: Job | Mapping[str, Any], *, timeout_s: float = ANSWER_S) -> str:
        """Submit a job and return its id.

        Args:
            spec: a Job, or a mapping of the job file's schema.
            timeout_s: how long a server may take to accept it.

        Raises:
            JobError: the job can't be run; found out before anything is sent.
            JobRefused: the server refused it.
            NotAnswered: no server took it in time; the broker keeps it.
        """
        job = spec if isinstance(spec, Job) else jobs.from_dict(dict(spec))
        job_id = job.id or new_id(job.name)
        await self.broker.publish(topics.submission(job_id), _event(job_id, "job.submit", jobs.without_defaults(job)))
        try:
            async with asyncio.timeout(timeout_s):
                await self._accepted(job_id)
        except TimeoutError:
            raise NotAnswered(job_id, timeout_s) from None
        return job_id

    async def watch(self, job: str | None = None) -> AsyncGenerator[Progress, None]:
        """A job's progress from its very start, each event once, until the job has ended.

        Args:
            job: its id; None follows every job, for ever.
        """
        seen: set[str] = set()
        every = topics.job_progress(topics.ANY if job is None else job)
        async with self.broker.subscribe(every, start="first", prefetch=64) as deliveries:
            async for delivery in deliveries:
                said = await _decoded(delivery)
                if said is None or said.id in seen:
                    continue
                seen.add(said.id)
                yield said
                if job is not None and isinstance(said.event, FINAL_EVENTS):
                    return

    async def cancel(self, job: str) -> None:
        """Ask for a job's end. Returns when the request is with the broker.

        Raises:
            NoSuchJob: no job has that id.
        """
        await self.job(job)
        await self.broker.publish(topics.cancellation(job), _event(job, "job.cancel", {}))

    async def job(self, job: str) -> JobRecord:
        """Where a job stands.

        Raises:
            NoSuchJob: no job has that id.
        """
        found = await self.broker.get(topics.job_record(job))
        if found is None:
            raise NoSuchJob(job)
        return codec.decode(JobRecord, found.payload)

    async def jobs(self) -> list[JobRecord]:
        """Every job that the broker knows, the oldest first."""
        values = await self.broker.snapshot(topics.job_record(topics.ANY))
        found = [codec.decode(JobRecord, value.payload) for value in values.values()]
        return sorted(found, key=lambda record: (record.created_s, record.id))

    async def clients(self) -> list[ClientRecord]:
        """The client register, by id.

        Raises:
            DecodeError: an entry of it is unreadable.
        """
        values = await self.broker.snapshot(topics.client(topics.ANY))
        found = [codec.decode(ClientRecord, value.payload) for value in values.values()]
        return sorted(found, key=lambda client: client.id)

    async def register(self, clients: list[ClientRecord]) -> None:
        """Write clients into the register, or write them anew."""
        async with task_group() as group:
            for client in clients:
                write = self.broker.put(topics.client(client.id), codec.encode(client))
                group.create_task(write, name=f"register {client.id}")

    async def client(self, client: str) -> ClientRecord | None:
        """A client's entry of the register; None if there is none.

        Raises:
            DecodeError: it is unreadable.
        """
        found = await self.broker.get(topics.client(client))
        return None if found is None else codec.decode(ClientRecord, found.payload)

    async def unregister(self, client: str) -> None:
        """Take a client out of the register, and forget its counts."""
        known = await self.client(client)
        await self.broker.delete(topics.client(client))
        if known is not None:
            await self.broker.delete(topics.client_stats(known.platform, client))

    async def tallies(self) -> dict[str, ClientStats]:
        """How the invocations of each client went so far, by client."""
        values = await self.broker.snapshot(topics.client_stats(topics.ANY, topics.ANY))
        found = [codec.decode(ClientStats, value.payload) for value in values.values()]
        # A client that moved to another platform has counts on both: the newer ones tell how it fares.
        return {tally.client: tally for tally in sorted(found, key=lambda tally: tally.seen_s)}

    async def ask(self, platform: str, verb: Verb, *, timeout_s: float, **what: Any) -> Reply:
        """Have a platform's bridge create, delete or list functions.

        Args:
            platform: the name that its bridge runs under.
            verb: what to do.
            timeout_s: how long it may take.
            what: `function` to create or bring up to date, or `name` of the one to delete.

        Raises:
            NoBridge: nobody answered in time; the request lapses.
        """
        request = Request(id=secrets.token_hex(16), deadline_s=time.time() + timeout_s, **what)
        try:
            async with asyncio.timeout(timeout_s), self.broker.subscribe(topics.reply(request.id)) as replies:
                await self.broker.publish(topics.fabric(platform, verb), codec.encode(request))
                return codec.decode(Reply, await (await anext(replies)).read())
        except TimeoutError:
            raise NoBridge(platform, verb, timeout_s) from None

    async def model(self, job: str) -> bytes:
        """The newest global model of a job, as a safetensors file.

        Raises:
            NoSuchJob: no job has that id.
            CorruptPayload: the job has no model yet, or the broker has lost it.
        """
        record = await self.job(job)
        found = None if record.model is None else await self.broker.get(record.model.topic)
        if found is None:
            raise CorruptPayload(topics.job_record(job), "there is no model")
        return found.payload

    async def _accepted(self, job_id: str) -> None:
        async with aclosing(self.watch(job_id)) as events:
            async for said in events:
                if isinstance(said.event, JobRejected):
                    raise JobRefused(job_id, said.event.field, said.event.reason)
                if isinstance(said.event, JobAccepted):
                    return


def new_id(name: str) -> str:
    """An id for a job of that name that no other job has."""
    return f"{name[:32]}-{secrets.token_hex(3)}"


def _event(job: str, what: str, data: object) -> bytes:
    return cloudevents.encode(Envelope(f"{job}.{what}.{secrets.token_hex(8)}", "/sdk", what, time.time(), job), data)


async def _decoded(delivery: Delivery) -> Progress | None:
    """None for events of a newer server that we do not know, and for what is none at all."""
    try:
        return progress.decode(await delivery.read())
    except (DecodeError, CorruptPayload):
        return None


@contextlib.asynccontextmanager
async def connect(url: str, *, provision: bool = True) -> AsyncIterator[Client]:
    """A running system, by its broker's address.

    Args:
        url: see `broker.connect`.
        provision: make the broker ready if no system has used it yet, so that jobs can be submitted before a server
            runs. Without it nothing is created there: for programs that only read.

    Raises:
        BadUrl: the address can't be used.
        ConnectFailed: nobody answers there, or the credentials are wrong.
        NoSystem: no system has used the broker yet, and `provision` is False.
        OldStore: the broker holds what version 0.1 stored.
        ForeignStream: someone else's JetStream stream is in our way.
    """
    async with broker.connect(url, name="fedkeeper", provision=provision) as bus:
        yield Client(bus)
