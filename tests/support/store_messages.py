"""Writes every kind of message as this version's code writes it, for `tests/contract/test_stored_messages.py`.

A small job is run on a real nats-server, with real workers, and what its parts publish is written down. What such a job
does not say (failures, functions, parcels) is made from examples.
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
from bridges.secrets import SecretStore
from broker import chunks, topics
from broker import connect as opened
from broker.base import Broker
from broker.messages import bundle, cloudevents, codec, progress
from broker.messages import job as jobs
from broker.messages.cloudevents import Envelope
from broker.messages.function import Deployed, Function, Reply, Request
from broker.messages.invocation import Invocation, InvocationRequest, Report
from broker.messages.progress import FINAL_EVENTS, Progress
from broker.messages.round import BlobRef, RoundTask
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from fedkeeper import archives
from fedkeeper.learning import TorchLearning
from fedkeeper.provision import stage_dataset
from fedkeeper.sdk import Client
from server.service import serve
from server.submissions import SubmissionReply
from tests.support.events import EVENTS

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
"""Whose task, request and update are kept: they belong together."""

FUNCTION: Final = "function-openfaas.zip"
"""This version's function as it is packaged, for the test that runs it against later servers."""

LIMIT_S: Final = 300.0
MANIFEST_BYTES: Final = 5 << 20

Messages = dict[str, bytes]


async def record() -> Messages:
    """Run the job; returns each message by the name of its file."""
    found: Messages = {}
    with tempfile.TemporaryDirectory(prefix="fedkeeper-") as folder:
        async with (
            asyncio.timeout(LIMIT_S),
            NatsServer(Path(folder) / "nats") as nats,
            opened(nats.url) as bus,
            _system(bus, nats.url, Path(folder), found) as sdk,
        ):
            await _run(sdk, found)
    manifest = await chunks.store(_forget, topics.model("job", "ab" * 32), bytes(MANIFEST_BYTES))
    return _examples() | _made_of(found) | found | {"manifest.bin": manifest}


async def _forget(topic: str, chunk: bytes) -> None:
    """The manifest alone is stored."""


@contextlib.asynccontextmanager
async def _system(bus: Broker, url: str, folder: Path, found: Messages) -> AsyncIterator[Client]:
    """Server, bridge, workers and clients on one connection, of which everything that is published is written down."""
    _tap(bus, lambda topic, payload: _note(found, topic, payload))
    sdk, learning, ready = Client(bus), TorchLearning(None), asyncio.Event()
    data = jobs.from_toml(JOB).data
    await sdk.register(stage_dataset(data, platform="local", shards_at=str(folder / "shards"), data_dir=None))
    async with _workers(url, bus) as platform, task_group() as group:
        parts = [
            group.create_task(serve(bus, learning, on_ready=ready.set), name="server"),
            group.create_task(Runner(bus, Invoker(platform)).run(), name="bridge"),
            group.create_task(_note_updates(bus, found), name="updates"),
        ]
        await ready.wait()
        yield sdk
        for part in parts:
            part.cancel()


def _workers(url: str, bus: Broker) -> AbstractAsyncContextManager[LocalPlatform]:
    return local.opened(local.Settings(broker=url, workers=2, concurrency=4), SecretStore(None), bus)


def _tap(bus: Broker, note: Callable[[str, bytes], None]) -> None:
    """Show what a connection publishes and puts."""
    for verb in ("publish", "put"):
        real = getattr(bus, verb)

        async def shown(topic: str, payload: bytes, *, real: Any = real, **how: Any) -> Any:
            note(topic, payload)
            return await real(topic, payload, **how)

        setattr(bus, verb, shown)


async def _run(sdk: Client, found: Messages) -> None:
    job = await sdk.submit(jobs.from_toml(JOB))
    async for said in sdk.watch(job):
        if isinstance(said.event, FINAL_EVENTS):
            break
    kept = await sdk.job(job)
    state = await sdk.broker.get(next(iter(kept.states.values())).topic)
    if state is None:
        raise RuntimeError("the job left no optimizer state")
    found["state.safetensors"] = state.payload


async def _note_updates(bus: Broker, found: Messages) -> None:
    async with bus.subscribe(topics.job_updates(topics.ANY), start="first") as deliveries:
        async for delivery in deliveries:
            if delivery.topic == topics.update("stored-messages", 1, CLIENT, 1):
                found["update.safetensors"] = await delivery.read()


def _note(found: Messages, topic: str, payload: bytes) -> None:
    """Give what was published a name."""
    match topic.split(".")[1:]:
        case ["rounds", _]:
            raw = json.loads(payload)
            found[f"record.{raw['phase']}.json"] = payload
            if raw["invited"] and raw["cohort"]:
                found.setdefault("record.open.json", payload)
        case ["models", *_]:
            found.setdefault("model.safetensors", payload)
        case ["tasks", _, client] if client == CLIENT:
            found["task.carry.json" if "task.json" in found else "task.json"] = payload
        case ["progress", _, subject, verb]:
            found[f"progress.{subject}.{verb}.json"] = payload
        case ["invocations", *_]:
            found[f"invocation.{json.loads(payload)['data']['outcome']}.json"] = payload
        case ["jobs", _, "submit"]:
            found["job.json"] = payload
        case ["secrets", _]:
            found["secret.txt"] = payload
        case [("tallies" | "presence" | "clients") as kind, *_]:
            found[f"{ {'tallies': 'tally', 'clients': 'client'}.get(kind, kind) }.json"] = payload
        case _:
            pass


def _made_of(found: Messages) -> Messages:
    """What a task becomes on its way to the function and back."""
    task = cloudevents.data_of(found["task.json"], RoundTask)
    request = codec.encode(InvocationRequest(task, 1))
    update = topics.update(task.job, task.round, task.client_id, 1)
    done = codec.encode(Report(task.id, "done", cold=True, attempt=1, activation="a1"))
    return {
        "order.json": request,
        "parcel.order.bin": bundle.pack(request, {task.model.topic: found["model.safetensors"]}),
        "parcel.report.bin": bundle.pack(done, {update: found["update.safetensors"]}),
        "job.toml": JOB.encode(),
        "job.bare.json": json.dumps(tomllib.loads(JOB)).encode(),
        "job.event.json": cloudevents.encode(Envelope("1", "/elsewhere", "job", time.time()), tomllib.loads(JOB)),
    }


def _examples() -> Messages:
    """What goes wrong, and what functions are made by."""
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
        "reply.created.json": codec.encode(Reply(change="created", functions=(deployed,))),
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
    """Write the folder anew."""
    messages = asyncio.run(record())
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload in sorted(messages.items()):
        (folder / name).write_bytes(payload)
    (folder / FUNCTION).write_bytes(archives.build("openfaas"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
