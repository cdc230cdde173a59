"""Writes every kind of message as this version's code writes it, for `tests/contract/test_stored_messages.py`.

It runs a small job on a real nats-server with real workers and stores what the parts publish. What such a job does not
publish (failures, functions, bundles) is made from examples.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from bridges import Invoker, Runner, local
from bridges.local import LocalPlatform
from bridges.machine import Machine
from bridges.presence import Bridge
from bridges.secrets import SecretStore
from broker import chunks, topics
from broker import connect as opened
from broker.base import Broker
from broker.messages import bundle, cloudevents, codec, progress
from broker.messages import job_file as jobs
from broker.messages.cloudevents import Envelope
from broker.messages.data_report import Column, DataReport, StatePlace
from broker.messages.function import Deployed, Function, Reply, Request
from broker.messages.invocation import Invocation, InvocationRequest, Report
from broker.messages.progress import FINAL_EVENTS, Progress
from broker.messages.round import BlobRef, RoundTask
from broker.messages.state_table import StateTable
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from client_fn.site import Site
from fedkeeper.deployment import archives
from fedkeeper.sdk import Client
from fedkeeper.services.learning import open_learning
from fedkeeper.services.provision import stage_dataset
from server.service import serve
from server.submissions import SubmissionReply
from tests.support.events import EVENTS

BRIDGE: Final = Bridge(
    "local",
    is_own=True,
    machine=Machine("board-7", "5f2b7c3a9d104e68", "0.2.0", lambda: 4096, lambda: 51200),
    address="tls://backbone.example.org:4222",
)
"""A bridge on another machine than the one that stores the messages."""

JOB: Final = """\
id = "stored-messages"
name = "stored-messages"
seed = 7

[model]
type = "nn"
args = { hidden = 4, classes = 10 }

[training]
optimizer = "adam"
learning_rate = 0.01
batch_size = 10
local_epochs = 1
optimizer_state = "carry"

[cohort]
clients = 4
quorum = 1.0
deadline_s = 120.0

[data]
dataset = "digits"
partition = "shards"
clients = 4

[stop]
rounds = 2
"""

CLIENT: Final = "digits-shards2-c4-s0-000"
"""The client whose task, request and update are stored: they belong together."""

FUNCTION: Final = "function-openfaas.zip"
"""This version's function as it is packaged, for the test that runs it against later servers."""

LIMIT_S: Final = 300.0
MANIFEST_BYTES: Final = 5 << 20

Messages = dict[str, bytes]


async def record() -> Messages:
    """Run the job; return each message by the name of its file."""
    messages: Messages = {}
    with tempfile.TemporaryDirectory(prefix="fedkeeper-") as folder:
        async with (
            asyncio.timeout(LIMIT_S),
            NatsServer(Path(folder) / "nats") as nats,
            opened(nats.url) as bus,
            _system(bus, nats.url, Path(folder), messages) as sdk,
        ):
            await _run(sdk, messages)
    manifest = await chunks.store(_forget, topics.model("job", "ab" * 32), bytes(MANIFEST_BYTES))
    return _examples() | _derived_from(messages) | messages | {"manifest.bin": manifest}


async def _forget(topic: str, chunk: bytes) -> None:
    """Drop the chunk: only the manifest is stored."""


@contextlib.asynccontextmanager
async def _system(bus: Broker, url: str, folder: Path, messages: Messages) -> AsyncIterator[Client]:
    """Run server, bridge, workers and clients on one connection, and store what it publishes."""
    _tap(bus, lambda topic, payload: _note(messages, topic, payload))
    sdk, ready = Client(bus), asyncio.Event()
    data = jobs.from_text(JOB).data
    await sdk.register(stage_dataset(data, platform="local", shards_at=str(folder / "shards"), data_dir=None))
    async with (
        _workers(url, bus) as platform,
        open_learning(Site(), None) as learning,
        task_group() as group,
    ):
        parts = [
            group.create_task(serve(bus, learning, on_ready=ready.set), name="server"),
            group.create_task(Runner(bus, Invoker(platform), bridge=BRIDGE).run(), name="bridge"),
            group.create_task(_note_updates(bus, messages), name="updates"),
        ]
        await ready.wait()
        yield sdk
        for part in parts:
            part.cancel()


def _workers(url: str, bus: Broker) -> AbstractAsyncContextManager[LocalPlatform]:
    return local.opened(local.Settings(broker=url, workers=2, concurrency=4), SecretStore(None), bus)


def _tap(bus: Broker, note: Callable[[str, bytes], None]) -> None:
    """Call `note` with every message that a connection publishes or puts."""
    for verb in ("publish", "put"):
        original = getattr(bus, verb)

        async def publish_and_note(topic: str, payload: bytes, *, original: Any = original, **options: Any) -> Any:
            note(topic, payload)
            return await original(topic, payload, **options)

        setattr(bus, verb, publish_and_note)


async def _run(sdk: Client, messages: Messages) -> None:
    job = await sdk.submit(jobs.from_text(JOB))
    async for message in sdk.watch(job):
        if isinstance(message.event, FINAL_EVENTS):
            break
    table = codec.decode(StateTable, messages["states.json"])
    state = await sdk.broker.get(next(iter(table.clients.values())).states["opt"].topic)
    if state is None:
        raise RuntimeError("the job left no optimizer state")
    messages["state.safetensors"] = state.payload


async def _note_updates(bus: Broker, messages: Messages) -> None:
    async with bus.subscribe(topics.job_updates(topics.ANY), start="first") as deliveries:
        async for delivery in deliveries:
            if delivery.topic == topics.update("stored-messages", 1, CLIENT, 1):
                messages["update.safetensors"] = await delivery.read()


def _note(messages: Messages, topic: str, payload: bytes) -> None:
    """Store a published message under the name of its file."""
    match topic.split(".")[1:]:
        case ["rounds", _]:
            raw = json.loads(payload)
            messages[f"record.{raw['phase']}.json"] = payload
            if raw["invited"] and raw["cohort"]:
                messages.setdefault("record.open.json", payload)
        case ["models", *_]:
            # The last table and the first model. A safetensors file begins with the length of its header.
            messages |= {"states.json": payload} if payload.startswith(b"{") else {}
            messages.setdefault("model.safetensors", payload)
        case ["tasks", _, client] if client == CLIENT:
            messages["task.carry.json" if "task.json" in messages else "task.json"] = payload
        case ["progress", _, subject, verb]:
            messages[f"progress.{subject}.{verb}.json"] = payload
        case ["invocations", *_]:
            messages[f"invocation.{json.loads(payload)['data']['outcome']}.json"] = payload
        case ["jobs", _, "submit"]:
            messages["job.json"] = payload
        case ["secrets", _]:
            messages["secret.txt"] = payload
        case [("tallies" | "presence" | "clients") as kind, *_]:
            messages[f"{ {'tallies': 'tally', 'clients': 'client'}.get(kind, kind) }.json"] = payload
        case _:
            pass


def _derived_from(messages: Messages) -> Messages:
    """Return the messages that are derived from a task: the request, the bundles and the forms of the job."""
    task = cloudevents.data_of(messages["task.json"], RoundTask)
    request = codec.encode(InvocationRequest(task, 1))
    update = topics.update(task.job, task.round, task.client_id, 1)
    done = codec.encode(Report(task.id, "done", cold=True, attempt=1, activation="a1"))
    return {
        "order.json": request,
        "parcel.order.bin": bundle.pack(request, {task.model.topic: messages["model.safetensors"]}),
        "parcel.report.bin": bundle.pack(done, {update: messages["update.safetensors"]}),
        "job.toml": JOB.encode(),
        "job.bare.json": json.dumps(tomllib.loads(JOB)).encode(),
        "job.event.json": cloudevents.encode(Envelope("1", "/elsewhere", "job", time.time()), tomllib.loads(JOB)),
    }


def _examples() -> Messages:
    """Return messages of failures and of functions."""
    now_s = time.time()
    function = Function(
        name="client-00",
        fabric="example",
        broker="nats://functions@broker.example:4222",
        password="broker",  # noqa: S106 (a secret's name)
        key="key",
        package=BlobRef(topics.package("ab" * 32), "ab" * 32, 5),
        env={"FEDKEEPER_DATA": "/data"},
        options={"constraints": ["node=jetson"]},
    )
    reports = [
        Report("job.1.client-00", "training", cold=True, attempt=1, activation="a1"),
        Report("job.1.client-00", "trained", attempt=1),
        Report("job.1.client-00", "done", attempt=1),
        Report("job.1.client-00", "failed", reason="Diverged: the loss is nan", retryable=False, attempt=2),
    ]
    outcomes = ("accepted", "running", "succeeded", "refused", "restored", "failed", "dead", "expired")
    deployed = Deployed(name="client-00", fabric="example", digest=function.digest, url="http://gateway.example")
    return {
        "function.json": codec.encode(function),
        "request.create.json": codec.encode(Request(id="ab" * 16, deadline_s=now_s, function=function)),
        "request.delete.json": codec.encode(Request(id="cd" * 16, deadline_s=now_s, name="client-00")),
        "request.list.json": codec.encode(Request(id="ef" * 16, deadline_s=now_s)),
        "request.check.json": codec.encode(
            Request(id="01" * 16, deadline_s=now_s, name="client-00", data_loc="/srv/a.csv", state_loc="/srv/state")
        ),
        "reply.created.json": codec.encode(Reply(change="created", functions=(deployed,))),
        "reply.checked.json": codec.encode(Reply(report=_data_report())),
        "reply.error.json": codec.encode(Reply(error="no such request: pause")),
        "answer.accepted.json": codec.encode(SubmissionReply(job="job-1")),
        "answer.refused.json": codec.encode(
            SubmissionReply(job="job-1", error="cohort.clients: wrong", field="cohort.clients")
        ),
        **{f"report.{report.state}.json": codec.encode(report) for report in reports},
        **{f"invocation.{outcome}.json": _invocation(outcome, now_s) for outcome in outcomes},
        **{
            f"progress.{event.what}.json": progress.encode(Progress("demo", event, now_s, f"demo.{event.what}"))
            for event in EVENTS
        },
    }


def _data_report() -> DataReport:
    columns = (Column(name="age", dtype="float64", missing=2), Column(name="x", dtype="float32", shape=(3, 32)))
    return DataReport(
        client="client-00",
        path="/srv/a.csv",
        kind="csv",
        bytes=100,
        owner="root:root",
        mode="-rw-r--r--",
        service="fedkeeper",
        is_readable=True,
        samples=20,
        columns=columns,
        column_count=2,
        classes=2,
        error="BadData",
        problem="it is empty",
        remedy="fill it",
        note="a note",
        state=StatePlace(path="/srv/state", is_writable=False, problem="not writable", remedy="chown"),
    )


def _invocation(outcome: Any, now_s: float) -> bytes:
    happened = Invocation(
        job="job",
        round=1,
        client="client-00",
        platform="openfaas",
        attempt=1,
        outcome=outcome,
        activation="a1",
        cold=True,
        reason="why",
        seconds=1.5,
    )
    envelope = Envelope(
        f"job.1.client-00.1.{outcome}", "/bridges/openfaas", f"invocation.{outcome}", now_s, "client-00"
    )
    return cloudevents.encode(envelope, happened)


def main(folder: Path) -> None:
    """Replace the folder."""
    messages = asyncio.run(record())
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload in sorted(messages.items()):
        (folder / name).write_bytes(payload)
    (folder / FUNCTION).write_bytes(archives.build("openfaas"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
