"""Messages that released versions wrote (`tests/wire/`), read by the code of today."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from broker import chunks, topics
from broker.messages import bundle, cloudevents, codec, progress, tensors
from broker.messages import job_file as jobs
from broker.messages.errors import DecodeError
from broker.messages.function import Function, Reply, Request
from broker.messages.invocation import Invocation, InvocationRequest, Report
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.register import ClientRecord, ClientStats, Presence
from broker.messages.round import RoundTask, nonce
from broker.messages.state_table import StateTable
from broker.messages.update import UpdateHeader, own_states
from client_fn.data import shards
from client_fn.exchange import InMemoryExchange
from client_fn.function import handle
from server import aggregator, gate
from server.gate import Expectation
from server.state_tables import StateTables
from server.submissions import SubmissionReply
from tests.support.paths import REPOSITORY
from tests.support.trainers import warm_state

VERSIONS: Final = sorted((REPOSITORY / "tests/wire").glob("[0-9]*"))
FILES: Final = [path for version in VERSIONS for path in sorted(version.iterdir()) if path.suffix != ".zip"]

COMPLETE: Final = frozenset(
    {"answer", "client", "function", "invocation", "job", "manifest", "model", "order", "parcel", "presence"}
    | {"progress", "record", "reply", "report", "request", "state", "tally", "task", "update"}
)

UNREAD: Final = {REPOSITORY / "tests/wire/0.1/progress.job.accepted.json"}
"""Version 0.1 wrote the job as TOML in JSON; a watcher passes that event over. Stores of 0.1 are put aside anyway."""

by_version = pytest.mark.parametrize("folder", VERSIONS, ids=[version.name for version in VERSIONS])


def shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def job(path: Path, payload: bytes) -> Job:
    if path.suffix == ".toml":
        return jobs.from_text(payload.decode())
    return jobs.from_json(cloudevents.unwrap(payload))


def manifest(_path: Path, payload: bytes) -> None:
    async def chunk(_topic: str) -> bytes:
        return bytes(1 << 20)

    assert asyncio.run(chunks.load(chunk, topics.model("job", "ab" * 32), payload)) == bytes(5 << 20)


def bundled(path: Path, payload: bytes) -> InvocationRequest | Report:
    message, blobs = bundle.unpack(payload)
    assert len(blobs) == 1
    return codec.decode(InvocationRequest, message) if "order" in path.name else codec.decode(Report, message)


def update(_path: Path, payload: bytes) -> UpdateHeader:
    return UpdateHeader.from_metadata(tensors.decode(payload)[1])


def bare(kind: type[Any]) -> Callable[[Path, bytes], Any]:
    return lambda _path, payload: codec.decode(kind, payload)


def event(kind: type[Any]) -> Callable[[Path, bytes], Any]:
    return lambda _path, payload: cloudevents.data_of(payload, kind)


READERS: Final[dict[str, Callable[[Path, bytes], Any]]] = {
    "answer": bare(SubmissionReply),
    "client": bare(ClientRecord),
    "function": bare(Function),
    "invocation": event(Invocation),
    "job": job,
    "manifest": manifest,
    "model": lambda _path, payload: tensors.decode(payload),
    "order": bare(InvocationRequest),
    "parcel": bundled,
    "presence": bare(Presence),
    "progress": lambda _path, payload: progress.decode(payload).event,
    "record": bare(JobRecord),
    "secret": lambda _path, payload: payload.decode(),
    "reply": bare(Reply),
    "report": bare(Report),
    "request": bare(Request),
    "state": lambda _path, payload: tensors.decode(payload),
    "states": bare(StateTable),
    "tally": bare(ClientStats),
    "task": event(RoundTask),
    "update": update,
}


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_a_message_of_a_released_version_is_read(path: Path) -> None:
    if path in UNREAD:
        with pytest.raises(DecodeError):
            READERS[path.name.split(".")[0]](path, path.read_bytes())
        return
    READERS[path.name.split(".")[0]](path, path.read_bytes())


@by_version
def test_every_kind_of_message_is_stored(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {name.split(".")[0] for name in names} - {"function-openfaas", "secret", "states"} == COMPLETE
    stored = {name.removeprefix("progress.").removesuffix(".json") for name in names if name.startswith("progress.")}
    assert len(stored) >= 18


@by_version
def test_events_are_the_ones_that_their_names_say(folder: Path) -> None:
    for path in set(folder.glob("progress.*.json")) - UNREAD:
        assert f"progress.{progress.decode(path.read_bytes()).event.what}.json" == path.name
    for path in folder.glob("invocation.*.json"):
        assert f"invocation.{cloudevents.data_of(path.read_bytes(), Invocation).outcome}.json" == path.name
    for path in folder.glob("report.*.json"):
        assert f"report.{codec.decode(Report, path.read_bytes()).state}.json" == path.name


@by_version
def test_a_job_is_equal_in_every_form(folder: Path) -> None:
    record = codec.decode(JobRecord, (folder / "record.accepted.json").read_bytes())
    for path in folder.glob("job.*"):
        assert job(path, path.read_bytes()) == record.job
    assert (record.job.stop.rounds, record.job.model.args["hidden"], record.job.training.rate) == (2, 4, 0.01)


def nonce_of(folder: Path, record: JobRecord) -> str:
    """The nonce of the stored round: version 0.1 kept it in the record that everybody may read."""
    if folder.name == "0.1":
        return str(json.loads((folder / "record.open.json").read_bytes())["nonce"])
    return nonce((folder / "secret.txt").read_text(), record.id, record.round)


@by_version
def test_a_stored_client_has_its_optimizer_s_state_under_a_name(folder: Path) -> None:
    raw = (folder / "record.completed.json").read_bytes()
    states = StateTables(codec.decode(JobRecord, raw))
    for path in folder.glob("states.json"):  # version 0.1 wrote them into the record
        states.read(codec.decode(StateTable, path.read_bytes()))
    found = sorted(states.topics())
    assert len(found) == 4
    for topic in found:
        client = topic.split(".")[3]
        assert {name: ref.topic for name, ref in states.of(client).states.items()} == {"opt": topic}
        assert f"{client}.2.1" in topic


@by_version
def test_the_server_counts_an_update_of_a_round_that_an_older_server_opened(folder: Path) -> None:
    record = codec.decode(JobRecord, (folder / "record.open.json").read_bytes())
    task = cloudevents.data_of((folder / "task.json").read_bytes(), RoundTask)
    model, _ = tensors.decode((folder / "model.safetensors").read_bytes())
    assert record.model is not None
    expectation = Expectation(
        job=record.id,
        round=record.round,
        base=record.model.sha256,
        nonce=nonce_of(folder, record),
        members={member.id: member for member in record.cohort},
        plan=aggregator.plan(model, frozenset(), 10_000),
        max_samples=record.job.cohort.max_samples,
    )
    where = gate.parse_topic(topics.update(task.job, task.round, task.client_id, 1))
    gate.admit(where, expectation, ())
    header, trained, _ = gate.check((folder / "update.safetensors").read_bytes(), where, expectation)
    assert (header.samples, header.metrics["steps"], trained.keys()) == (360, 36.0, model.keys())
    following = cloudevents.data_of((folder / "task.carry.json").read_bytes(), RoundTask)
    assert header.states.keys() == {"opt"}
    assert following.initial_states == header.states == own_states(header)


@pytest.mark.torch
@by_version
async def test_the_function_does_what_an_older_server_ordered(folder: Path, tmp_path: Path) -> None:
    message, given = bundle.unpack((folder / "parcel.order.bin").read_bytes())
    request, shard = codec.decode(InvocationRequest, message), str(tmp_path / "shard.safetensors")
    rng = np.random.default_rng(1)
    shards.write(shard, rng.random((20, 8, 8), dtype=np.float32), np.arange(20) % 10)
    task = msgspec.structs.replace(request.task, data_loc=shard)
    blobs = InMemoryExchange(given)
    await handle(task, blobs, warm_state(), attempt=request.attempt, clock=lambda: 0.0)
    update_at = topics.update(task.job, task.round, task.client_id, request.attempt)
    trained, metadata = tensors.decode(blobs.outputs[update_at])
    header = UpdateHeader.from_metadata(metadata)
    assert (header.samples, header.token, header.base) == (20, task.token, request.task.model.sha256)
    assert hashlib.sha256(given[request.task.model.topic]).hexdigest() == request.task.model.sha256
    assert tensors.layout(trained) == tensors.layout(tensors.decode(given[request.task.model.topic])[0])


@by_version
def test_a_function_that_an_older_version_made_is_still_the_same_function(folder: Path) -> None:
    function = codec.decode(Function, (folder / "function.json").read_bytes())
    reply = codec.decode(Reply, (folder / "reply.created.json").read_bytes())
    assert function.digest == reply.functions[0].digest
