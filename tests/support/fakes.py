"""Fake clients and models for tests: no torch, no processes, results that can be checked by hand."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy

from bridges import presence
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents
from broker.messages import tensors as payload
from broker.messages.cloudevents import Envelope
from broker.messages.invocation import Invocation, Outcome
from broker.messages.job import Job
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from broker.messages.strategy import name_of
from broker.messages.tensors import Tensors
from broker.messages.update import UpdateHeader
from broker.support.tasks import task_group
from server.errors import LearningFailed
from server.learning import EvaluationResult, InitialModel

INITIAL: Tensors = {
    "layer.weight": np.linspace(-0.5, 0.5, 12, dtype=np.float32).reshape(3, 4),
    "layer.bias": np.zeros(3, np.float32),
    "norm.running_mean": np.zeros(3, np.float32),
    "norm.num_batches_tracked": np.array(0, np.int64),
}


@dataclass
class FakeLearning:
    """A model of four small tensors; its accuracy is the mean of its bias.

    Attributes:
        fails_on: name of a dataset that is missing.
        frozen: names of the tensors that no client trains.
        measure: returns further metrics of a model.
        fails_to_score: whether the clients' sums can't be scored.
    """

    fails_on: str = ""
    frozen: tuple[str, ...] = ()
    measure: Callable[[Tensors], dict[str, float]] = lambda _: {}
    fails_to_score: bool = False

    async def initial_model(self, job: Job) -> InitialModel:
        if job.data.dataset == self.fails_on:
            raise LearningFailed(f"no data {self.fails_on!r} here: put it there")
        return InitialModel(INITIAL, self.frozen, ("norm.running_mean", "norm.num_batches_tracked"))

    async def read_model(self, url: str) -> bytes:
        return await asyncio.to_thread(Path(url.removeprefix("file://")).read_bytes)

    async def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:  # noqa: ARG002 (the interface's arguments)
        tensors, _ = payload.decode(weights)
        assert payload.layout(tensors) == payload.layout(INITIAL)
        return EvaluationResult(float(tensors["layer.bias"].mean()), 0.5, 10, self.measure(tensors))

    async def score(self, job: Job, sums: Tensors) -> dict[str, float]:  # noqa: ARG002
        if self.fails_to_score:
            raise LearningFailed("these sums are no numbers of ours")
        means = {name.partition(".")[0]: float(sums[name]) for name in sums if not name.endswith(".count")}
        return {metric: total / float(sums[f"{metric}.count"]) for metric, total in means.items()}


def job(name: str = "test", **sections: Any) -> Job:
    """A job for four clients and two rounds; `sections` override its sections."""
    base: dict[str, Any] = {
        "name": name,
        "data": {"dataset": "own"},
        "cohort": {"clients": 4, "grace_s": 0.2, "deadline_s": 600.0, "wait_s": 600.0},
        "stop": {"rounds": 2},
        "evaluation": {"data": "/test"},
    }
    for section, values in sections.items():
        base[section] = {**base.get(section, {}), **values} if isinstance(values, Mapping) else values
    # No more than the tests register: else the first round waits a moment for the others.
    base["data"].setdefault("clients", base["cohort"]["clients"] + base["cohort"].get("over_select", 0))
    return msgspec.convert(base, Job)


def clients(count: int, data: str = "own", platform: str = "fake", first: int = 0) -> list[ClientRecord]:
    """Clients that hold the data, numbered from `first`; number i has i + 1 samples."""
    return [
        ClientRecord(id=f"client-{i:02d}", platform=platform, labels={"data": data}, samples=i + 1)
        for i in range(first, first + count)
    ]


def number(client: str) -> int:
    """The number in a client's id."""
    return int(client.rpartition("-")[2])


def processor_of(client: str) -> str:
    """The kind of processor that a client trains on: every other one has another kind."""
    return ("x86-64 Intel AVX512", "aarch64 NEON")[number(client) % 2]


def trained(base: Tensors, task: RoundTask) -> Tensors:
    """The tensors that a client returns; they depend only on the client, the round and the task's seed."""
    step = np.float32((number(task.client_id) + 1) / 64 + task.seed % 1000 / 65536)
    return {
        name: array + step
        if payload.layout({name: array})[name][0] in payload.FLOATS
        else array + number(task.client_id)
        for name, array in base.items()
    }


def header(task: RoundTask, attempt: int = 1, **changes: Any) -> UpdateHeader:
    """The metadata of an update; `changes` replace fields of the correct one."""
    fields: dict[str, Any] = {
        "job": task.job,
        "round": task.round,
        "attempt": attempt,
        "client": task.client_id,
        "samples": number(task.client_id) + 1,
        "base": task.model.sha256,
        "token": task.token,
        "metrics": {"loss": 0.5},
        "strategy": name_of(task.strategy),
        "processor": processor_of(task.client_id),
    }
    return UpdateHeader(**{**fields, **changes})


def judgement(task: RoundTask) -> tuple[Tensors, dict[str, Any]]:
    """The sums of a client that is to judge the model, and what its header says: number i has i right of i + 1."""
    if task.evaluation is None:
        return {}, {}
    right, judged = number(task.client_id), number(task.client_id) + 1
    sums: Tensors = {
        "eval.accuracy.correct": np.array(right),
        "eval.accuracy.count": np.array(judged),
        "eval.loss.sum": np.array(0.1 * judged),
        "eval.loss.count": np.array(judged),
    }
    own = {"accuracy": right / judged, "loss": 0.1}
    return sums, {"judged": judged, "evaluation": own, "seconds": {"train": 1.0, "judge": 0.25}}


def update(tensors: Tensors, metadata: UpdateHeader) -> bytes:
    """An update as a safetensors file."""
    return safetensors.numpy.save({name: np.asarray(array) for name, array in tensors.items()}, metadata.to_metadata())


async def base_of(bus: Broker, task: RoundTask) -> Tensors:
    """The global model that a task starts from."""
    value = await bus.get(task.model.topic)
    assert value is not None
    return payload.decode(value.payload)[0]


async def report(bus: Broker, task: RoundTask, outcome: Outcome, attempt: int = 1, reason: str = "") -> None:
    """Publish the outcome of an invocation, as a bridge does. Nothing marks a repetition as such."""
    invocation = Invocation(
        job=task.job,
        round=task.round,
        client=task.client_id,
        platform=task.client_type,
        attempt=attempt,
        outcome=outcome,
        activation="act-1",
        reason=reason,
    )
    envelope = Envelope("any", f"/bridges/{task.client_type}", f"invocation.{outcome}", 1.0)
    await bus.publish(topics.invocation(task.client_type, task.client_id), cloudevents.encode(envelope, invocation))


async def answer(bus: Broker, task: RoundTask, attempt: int = 1) -> None:
    """Do what a task asks for, and publish the update."""
    sums, said = judgement(task)
    tensors = trained(await base_of(bus, task), task) if task.purpose == "train" else {}
    content = update(tensors | sums, header(task, attempt, **said))
    await bus.publish(topics.update(task.job, task.round, task.client_id, attempt), content)


@dataclass
class Fleet:
    """Fake clients behind a platform.

    Attributes:
        bus: delivers the tasks and takes the updates.
        behave: handles a task; by default `answer`.
        task_counts: number of tasks of each (job, round, client).
        tasks: every task, in the order of arrival.
        platform: the platform whose tasks the clients take.
    """

    bus: Broker
    behave: Callable[[Broker, RoundTask], Awaitable[None]] = answer
    task_counts: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    tasks: list[RoundTask] = field(default_factory=list)
    platform: str = "fake"

    async def serve(self) -> None:
        """Take tasks until cancelled."""
        name, durable = topics.platform_tasks(self.platform), f"fleet-{self.platform}"
        async with task_group() as group, self.bus.subscribe(name, durable=durable) as deliveries:
            group.create_task(presence.announce(self.bus, presence.Bridge(self.platform)), name="presence")
            async for delivery in deliveries:
                task = cloudevents.data_of(await delivery.read(), RoundTask)
                self.task_counts[task.job, task.round, task.client_id] += 1
                self.tasks.append(task)
                await delivery.ack()
                group.create_task(self._behave(task), name=task.id)

    async def _behave(self, task: RoundTask) -> None:
        await self.behave(self.bus, task)


@contextlib.asynccontextmanager
async def running(*work: Awaitable[None]) -> AsyncIterator[None]:
    """Run awaitables in the background until the context ends. An error in one of them fails the test."""

    async def run(awaitable: Awaitable[None]) -> None:
        await awaitable

    async with task_group() as group:
        tasks = [group.create_task(run(awaitable), name=f"background {i}") for i, awaitable in enumerate(work)]
        yield
        for task in tasks:
            task.cancel()


async def soon(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until a condition holds that no event announces."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (no event to wait for)
            await asyncio.sleep(0.01)
