"""The Python SDK: submits jobs, follows them and fetches their models.

async with fedkeeper.connect() as client:  # beside `fedkeeper up`
    job = await client.submit(Job(name="mine"))
    async for progress in client.watch(job):
        print(progress.event)
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import broker
from broker import topics
from broker.base import Broker, Start
from broker.messages import cloudevents, codec
from broker.messages import job_file as jobs
from broker.messages.cloudevents import Envelope
from broker.messages.data_report import DataReport
from broker.messages.function import Reply, Request, Verb
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobAccepted, JobRejected, Progress
from broker.messages.register import ClientRecord, ClientStats
from broker.support.tasks import task_group
from fedkeeper import configs, own_data, stored_values, watching
from fedkeeper.configs import Spec
from fedkeeper.display.job_list import JobList
from fedkeeper.errors import JobNotFinished, JobRefused, NoBridge, NoModelYet, NoSuchJob, NotAnswered
from fedkeeper.sites import checking, presences, site_list
from fedkeeper.sites.site_list import Site
from server import models, removal
from server.models import Which

if TYPE_CHECKING:
    from client_fn.data.staging import Staged

SHARDS: Final = ".fedkeeper/shards"
"""Folder of staged shards: where `fedkeeper up` has those of the built-in datasets."""

CLEAN_UP_S: Final = 10.0
"""Longest time that a server may take to clean up after a job's end, before the job can be deleted. Seconds."""

ACCEPT_S: Final = 10.0
"""Longest time that a server may take to accept a job."""


@contextlib.asynccontextmanager
async def connect(url: str = "", *, provision: bool = True) -> AsyncIterator["Client"]:
    """Connect to a running system.

    Args:
        url: the broker's address, as for `broker.connect`. Empty: that in the variable FEDKEEPER_URL, else that of
            `fedkeeper up` in the current folder.
        provision: create the broker's streams if no system has used it yet, so that jobs can be submitted before a
            server runs. Programs that only read pass False: then nothing is created.

    Raises:
        BadOption: no address is given, and `fedkeeper up` does not run in the current folder.
        BadUrl: the address can't be used.
        ConnectFailed: no broker answers there, or it refuses the credentials.
        NoSystem: no system has used the broker yet, and `provision` is False.
        OldStore: the broker holds a store of version 0.1.
        ForeignStream: a JetStream stream of another owner has a name or topic that we need.
    """
    async with broker.connect(url or _default_url(), name="fedkeeper", provision=provision) as bus:
        yield Client(bus)


def _default_url() -> str:
    # Imported here because a program that names its broker needs no command line.
    from fedkeeper import options

    return options.broker_url(os.environ.get("FEDKEEPER_URL", ""))


class Client:
    """A client of a running FedKeeper system, connected through its broker.

    Attributes:
        broker: the connection, for operations that this class does not offer.
    """

    def __init__(self, bus: Broker) -> None:
        self.broker = bus

    async def submit(self, spec: Spec, *, job_id: str = "", timeout_s: float = ACCEPT_S) -> str:
        """Submit a job, wait until a server accepts it, and return its id.

        Args:
            spec: a `Job`, a mapping with the fields of a job file, the path of a job file, or the name of one that
                comes with FedKeeper, such as `quickstart`.
            job_id: the id of a job that names none; empty: a new one is made of its name.
            timeout_s: seconds to wait for a server.

        Raises:
            JobError: the job is not valid; nothing was sent.
            Missing: the job file does not exist or can't be read.
            TypeError: `spec` is something else.
            JobRefused: the server refused the job, or another job has its id.
            NotAnswered: no server accepted the job in time; the broker keeps it.
        """
        job = configs.job_of(spec)
        job_id = job.id or job_id or new_id(job.name)
        submission = f"{job_id}.job.submit.{secrets.token_hex(8)}"
        event = _encode_event(job_id, "job.submit", jobs.without_defaults(job), submission)
        await self.broker.publish(topics.submission(job_id), event)
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait_until_accepted(job_id, job, submission=submission)
        except TimeoutError:
            raise NotAnswered(job_id, timeout_s, submission) from None
        return job_id

    async def wait_until_accepted(self, job: str, spec: Job | None = None, *, submission: str = "") -> None:
        """Wait until a server has accepted a submitted job.

        Args:
            job: the job's id.
            spec: the job that was submitted; None: any job under the id will do.
            submission: id of the event that submitted it, as in `NotAnswered`; empty: any refusal is this job's.

        Raises:
            JobRefused: the server refused the job, or another job has the id.
        """
        if await self._is_accepted(job, spec, submission):
            return
        async with aclosing(watching.events(self.broker, job)) as events:
            async for update in events:
                match update.event:
                    case JobAccepted() if await self._is_accepted(job, spec, submission):
                        return
                    case JobRejected() as event if _is_of(update.id, event, submission):
                        raise JobRefused(job, event.field, event.reason)

    async def _is_accepted(self, job: str, spec: Job | None, submission: str) -> bool:
        """Whether a server has accepted this submission, or the same job before.

        Raises:
            JobRefused: another job has the id.
        """
        value = await self.broker.get(topics.job_record(job))
        if value is None:
            return False
        record = codec.decode(JobRecord, value.payload)
        if spec is not None and not record.is_of(spec) and (not submission or record.submission != submission):
            raise JobRefused(job, "id", f"id = {job!r}: another job has this id; choose another, or none")
        return True

    def watch(
        self, job: str | None = None, *, on_reach: watching.OnReach = lambda _: None, start: Start = "first"
    ) -> AsyncGenerator[Progress, None]:
        """Yield a job's progress from its start until it has ended, each event once.

        If the events of an ended job are forgotten, its record says how it ended.

        Args:
            job: the job's id; None: follow every job until cancelled.
            on_reach: called with False when the broker is out of reach, and with True when it answers again.
            start: which events are wanted: all that the broker keeps (`first`), those to come (`new`), or those since
                a time.

        Raises:
            NoSuchJob: no server has accepted a job with this id, or its record is no longer there.
        """
        return watching.follow(self.broker, job, on_reach, start)

    async def cancel(self, job: str) -> None:
        """Request a job's cancellation. Returns when the broker has the request.

        Raises:
            NoSuchJob: no job has that id.
        """
        await self.job(job)
        await self.broker.publish(topics.cancellation(job), _encode_event(job, "job.cancel", {}))

    async def remove_job(self, job: str) -> None:
        """Delete a finished job: its models, its events and its record.

        If its end was announced just now, this waits until the server has cleaned up.

        Raises:
            NoSuchJob: no job has that id.
            JobNotFinished: the job has not ended.
        """
        record = await self.job(job)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEAN_UP_S if record.has_ended else 0):
                while not record.is_finished:
                    await asyncio.sleep(CLEAN_UP_S / 100)
                    record = await self.job(job)
        if not record.is_finished:
            raise JobNotFinished(job)
        await removal.remove(self.broker, job)

    async def job(self, job: str) -> JobRecord:
        """Return the record of a job.

        Raises:
            NoSuchJob: no job has that id.
        """
        value = await self.broker.get(topics.job_record(job))
        if value is None:
            raise NoSuchJob(job)
        return codec.decode(JobRecord, value.payload)

    async def jobs(self) -> list[JobRecord]:
        """Return the record of every job that can be read, the oldest first. The others are logged."""
        values = await self.broker.snapshot(topics.job_record(topics.ANY))
        records = stored_values.readable(values, JobRecord, lambda record: topics.job_record(record.id))
        return JobList(sorted(records, key=lambda record: (record.created_s, record.id)))

    async def model(self, job: str, which: Which = "last") -> bytes:
        """Return a global model of a job, as a safetensors file.

        It has all tensors but those that never leave a site: the personal ones, and with `model.frozen = "site"` those
        that no client trains, which the record's `frozen` names.

        Args:
            job: the job's id.
            which: the `last` model, the `best` one by `evaluation.best`, or that of a round which the job keeps.

        Raises:
            NoSuchJob: no job has that id.
            NoModelYet: no round of the job is completed. Round 0 is its initial model, as long as the job has it.
            NoSuchModel: the job has no such model; the message says which ones it has.
            CorruptPayload: the broker has lost the model.
        """
        record = await self.job(job)
        if record.last is None and which in ("last", "best"):
            raise NoModelYet(job, record.round, ended=record.phase if record.has_ended else "")
        return await models.read(self.broker, record, which)

    async def clients(self) -> list[ClientRecord]:
        """Return the entries of the client register that can be read, sorted by client id. The others are logged."""
        values = await self.broker.snapshot(topics.client(topics.ANY))
        records = stored_values.readable(values, ClientRecord, lambda client: topics.client(client.id))
        return sorted(records, key=lambda record: record.id)

    async def client(self, client: str) -> ClientRecord | None:
        """Return a client's entry in the register; None if it has none.

        Raises:
            DecodeError: the entry can't be read.
        """
        value = await self.broker.get(topics.client(client))
        return None if value is None else codec.decode(ClientRecord, value.payload)

    async def register(self, clients: list[ClientRecord]) -> None:
        """Add clients to the register, or replace their entries."""
        async with task_group() as group:
            for client in clients:
                write = self.broker.put(topics.client(client.id), codec.encode(client))
                group.create_task(write, name=f"register {client.id}")

    async def stage(
        self,
        x: Any,
        y: Any = None,
        *,
        clients: int,
        partition: str = "iid",
        name: str = "own",
        test: float = 0.0,
        to: str = SHARDS,
        platform: str = "local",
        **split: Any,
    ) -> "Staged":
        """Split samples among clients, write their shards, and register the clients.

        A job trains on them with `Job(data=staged.data, evaluation=Evaluation(data=staged.test), ...)`.

        Args:
            x: the samples (N, ...), whatever numpy makes an array of; or several such by name.
            y: labels or targets (N, ...); labels may be texts. None: there are none, or `x` has them.
            clients: number of clients.
            partition: `iid`, `shards` or `dirichlet`, as in a job file.
            name: the data's name in jobs, which also names the clients.
            test: share of the samples that no client gets, as a test set.
            to: folder or fsspec URL, as the clients' functions reach it.
            platform: the platform that hosts the clients.
            split: further fields of a job's data section, such as `alpha`, `min_samples`, `seed` or `labels`.

        Raises:
            JobError: an argument has a wrong value.
            BadData: the arrays can't be used or split, or a shard can't be written.
            BadTopic: the name can't be a client's.
        """
        fields = {"dataset": name, "partition": partition, "clients": clients, **split}
        data = jobs.from_dict({"data": fields, "cohort": {"clients": 1}}).data
        staged = await asyncio.to_thread(own_data.stage_arrays, x, y, data, to, platform=platform, test=test)
        await self.register(staged.clients)
        return staged

    async def unregister(self, client: str) -> None:
        """Remove a client from the register and delete its statistics."""
        record = await self.client(client)
        await self.broker.delete(topics.client(client))
        if record is not None:
            await self.broker.delete(topics.client_stats(record.platform, client))

    async def clock_warnings(self) -> list[str]:
        """Return a sentence about each bridge whose clock is wrong; none where the broker keeps no time (MQTT)."""
        stored = presences.decoded((await self.broker.snapshot(presences.ALL)).values())
        ahead = [(presence, presence.ahead_s(time_s)) for presence, time_s, _ in stored.values() if time_s is not None]
        return sorted(presence.skew_text(ahead_s) for presence, ahead_s in ahead if ahead_s)

    async def sites(self) -> list[Site]:
        """Return the sites: each platform with its bridges and its clients, those where something fails first.

        Takes up to 7 s where clocks do not tell whether a bridge is up: then it waits for its next announcement.
        """
        from fedkeeper import __version__

        clients, words = await self.clients(), await presences.read(self.broker)
        return site_list.sites(words, clients, version=__version__)

    async def client_stats(self) -> dict[str, ClientStats]:
        """Return the statistics of each client's invocations, by client id."""
        values = await self.broker.snapshot(topics.client_stats(topics.ANY, topics.ANY))
        stats = stored_values.readable(
            values, ClientStats, lambda each: topics.client_stats(each.platform, each.client)
        )
        # A client that moved to another platform has statistics on both; the newer ones win.
        return {entry.client: entry for entry in sorted(stats, key=lambda entry: entry.seen_s)}

    async def check(self, client: str, *, timeout_s: float = checking.CHECK_S) -> DataReport:
        """Let a client's site look at its data, and return what it is: sizes, columns and dtypes, never a value.

        Args:
            client: the client's id.
            timeout_s: seconds to wait for the site.

        Raises:
            NotChecked: the client is not registered, its platform has no bridge that answers, or that can't look there.
        """
        return await checking.check(self, client, timeout_s)

    async def request_functions(self, platform: str, verb: Verb, *, timeout_s: float, **arguments: Any) -> Reply:
        """Request that a platform's bridge creates, deletes or lists functions, or checks a client's data.

        Args:
            platform: the name that the platform's bridge uses.
            verb: `create`, `delete`, `list` or `check`.
            timeout_s: seconds to wait for the reply.
            arguments: further fields of the `Request`, such as `function` to create, or `name` of the one to delete.

        Raises:
            NoBridge: no bridge answered in time; the request expires.
        """
        request = Request(id=secrets.token_hex(16), deadline_s=time.time() + timeout_s, **arguments)
        try:
            async with asyncio.timeout(timeout_s), self.broker.subscribe(topics.reply(request.id)) as replies:
                await self.broker.publish(topics.fabric(platform, verb), codec.encode(request))
                return codec.decode(Reply, await (await anext(replies)).read())
        except TimeoutError:
            raise NoBridge(platform, verb, timeout_s) from None


def new_id(name: str) -> str:
    """Return a unique id for a job of that name."""
    return f"{name[:32]}-{secrets.token_hex(3)}"


def _is_of(event_id: str, event: JobRejected, submission: str) -> bool:
    """Whether a refusal is that of a submission; an empty one stands for any.

    A server of an older version does not name the submission, and gives each of its refusals the same id.
    """
    return submission in ("", event.submission) or event_id.endswith(event.what)


def _encode_event(job: str, kind: str, data: object, event_id: str = "") -> bytes:
    """Encode a request about a job as a CloudEvent."""
    event_id = event_id or f"{job}.{kind}.{secrets.token_hex(8)}"
    return cloudevents.encode(Envelope(event_id, "/sdk", kind, time.time(), job), data)
