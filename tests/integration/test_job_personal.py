"""A task names the personal layers of the client's last counted update, whatever was refused or crashed since."""

import asyncio
import contextlib
import hashlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, codec, progress
from broker.messages.cloudevents import Envelope
from broker.messages.invocation import Invocation
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.register import ClientRecord
from broker.messages.round import PersonalRef, RoundTask
from broker.messages.state_table import ClientState, StateTable
from fedkeeper.sdk import Client
from server import models
from server.learning import InitialModel
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import events_of, watch_to_end
from tests.support.server_crashes import WITHIN_S, Crash, crashing, wait_until_over

Behaviour = Callable[[Broker, RoundTask], Awaitable[None]]


class PersonalLearning(FakeLearning):
    """The fake model, and one more tensor that no server sees."""

    async def initial_model(self, job: Job) -> InitialModel:
        initial = await super().initial_model(job)
        return InitialModel(initial.weights, initial.frozen, initial.buffers, personal=("head.weight",))


def clients(count: int, state_loc: str = "/layers") -> list[ClientRecord]:
    return [msgspec.structs.replace(client, state_loc=state_loc) for client in fakes.clients(count)]


def job(rounds: int, **cohort: object) -> Job:
    return fakes.job(
        model={"personal": ["head.*"]},
        evaluation={"every": 0, "data": ""},
        stop={"rounds": rounds},
        cohort={"grace_s": 0.0, **cohort},
    )


def digest(task: RoundTask, attempt: int = 1) -> str:
    return hashlib.sha256(f"{task.id}.{attempt}".encode()).hexdigest()


def first(behave: Behaviour) -> Behaviour:
    """Let client-00 behave like this in each round, and only then the others answer: the quorum closes the round."""
    done: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def in_order(bus: Broker, task: RoundTask) -> None:
        if task.client_id == "client-00":
            await behave(bus, task)
            done[task.round].set()
        else:
            await done[task.round].wait()
            await answer(bus, task)

    return in_order


async def answer(bus: Broker, task: RoundTask, attempt: int = 1, **changes: object) -> None:
    """Publish an update that names the digest of the attempt."""
    header = fakes.header(task, attempt, **{"personal": digest(task, attempt), **changes})
    update = fakes.update(fakes.trained(await fakes.base_of(bus, task), task), header)
    await bus.publish(topics.update(task.job, task.round, task.client_id, attempt), update)


async def give_up(bus: Broker, task: RoundTask) -> None:
    """Report that no attempt at a task has worked."""
    facts = Invocation(
        job=task.job, round=task.round, client=task.client_id, platform="fake", attempt=1, outcome="dead", reason="lost"
    )
    envelope = Envelope(f"{task.id}.dead", "/fake", "invocation", time.time(), task.client_id)
    await bus.publish(topics.invocation("fake", task.client_id), cloudevents.encode(envelope, facts))


def named(tasks: Sequence[RoundTask], client: str = "client-00") -> dict[int, PersonalRef | None]:
    """What the tasks of a client have named, by round."""
    return {task.round: task.personal for task in tasks if task.client_id == client}


async def states_of(bus: Broker, record: JobRecord) -> dict[str, ClientState]:
    """What the tables that a job's record names say of each client."""
    found: dict[str, ClientState] = {}
    for table in record.state_tables:
        found |= codec.decode(StateTable, await models.get(bus, table)).clients
    return found


def ref(task_id: str, round_: int, attempt: int = 1) -> PersonalRef:
    return PersonalRef(round_, attempt, hashlib.sha256(f"{task_id}.{attempt}".encode()).hexdigest())


async def test_each_task_names_those_of_the_client_s_last_counted_update(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus, answer)
    await sdk.register(clients(4))
    async with running(serve(bus, PersonalLearning()), fleet.serve()):
        name = await sdk.submit(job(rounds=3))
        await watch_to_end(sdk, name)
    assert named(fleet.tasks) == {
        1: None,
        2: ref(f"{name}.1.client-00", 1),
        3: ref(f"{name}.2.client-00", 2),
    }
    record = await sdk.job(name)
    assert record.personal == ("head.weight",)
    left = await states_of(bus, record)
    assert {client: state.own.round for client, state in left.items() if state.own} == {
        f"client-0{i}": 3 for i in range(4)
    }
    assert len({task.model_seed for task in fleet.tasks}) == 1


async def test_refused_and_repeated_updates_do_not_advance_them(sdk: Client, bus: Broker) -> None:
    async def misbehave(bus: Broker, task: RoundTask) -> None:
        if task.round == 2:
            await answer(bus, task, attempt=1, samples=0)
            await answer(bus, task, attempt=2, personal="")
        else:
            await answer(bus, task, attempt=1, token="")
            await answer(bus, task, attempt=2)
            await answer(bus, task, attempt=3)

    fleet = Fleet(bus, first(misbehave))
    await sdk.register(clients(4))
    async with running(serve(bus, PersonalLearning()), fleet.serve()):
        name = await sdk.submit(job(rounds=3, quorum=3, deadline_s=600.0))
        messages = await watch_to_end(sdk, name)
    counted = ref(f"{name}.1.client-00", 1, attempt=2)
    assert named(fleet.tasks) == {1: None, 2: counted, 3: counted}
    refused = events_of(messages, progress.UpdateRefused)
    assert {"token", "samples", "personal"} <= {event.code for event in refused}
    (missing_digest,) = [event.reason for event in refused if event.code == "personal"]
    assert missing_digest == "it names no SHA-256 digest of the client's personal layers: upgrade the function"


async def test_a_client_that_misses_rounds_goes_on_from_its_last_counted_ones(sdk: Client, bus: Broker) -> None:
    async def sleepy(bus: Broker, task: RoundTask) -> None:
        if task.round in (1, 4):
            await answer(bus, task)

    fleet = Fleet(bus, first(sleepy))
    await sdk.register(clients(4))
    async with running(serve(bus, PersonalLearning()), fleet.serve()):
        name = await sdk.submit(job(rounds=5, quorum=3))
        await watch_to_end(sdk, name)
    once, later = ref(f"{name}.1.client-00", 1), ref(f"{name}.4.client-00", 4)
    assert named(fleet.tasks) == {1: None, 2: once, 3: once, 4: once, 5: later}


async def test_a_failed_round_leaves_them_as_they_were(sdk: Client, bus: Broker) -> None:
    async def fail(bus: Broker, task: RoundTask) -> None:
        if task.round != 2 or task.client_id == "client-00":
            await answer(bus, task)
        else:
            await give_up(bus, task)

    fleet = Fleet(bus, fail)
    await sdk.register(clients(4))
    async with running(serve(bus, PersonalLearning()), fleet.serve()):
        name = await sdk.submit(job(rounds=2, on_failure="retry"))
        await watch_to_end(sdk, name)
    counted = ref(f"{name}.1.client-00", 1)
    assert named(fleet.tasks) == {1: None, 2: counted, 3: counted}


@pytest.mark.parametrize("writes", range(8, 64, 4))
async def test_a_server_that_takes_over_names_the_same_ones(memory_url: str, writes: int) -> None:
    async with broker.connect(memory_url) as bus, broker.connect(memory_url) as servers:
        fleet, sdk = Fleet(bus, answer), Client(bus)
        await sdk.register(clients(4))
        async with asyncio.timeout(WITHIN_S), running(fleet.serve()):
            await bus.publish(topics.submission("own"), msgspec.json.encode(job(rounds=3)))
            with contextlib.suppress(Crash):
                async with running(serve(crashing(servers, writes), PersonalLearning())):
                    await wait_until_over(bus, "own")
            async with running(serve(bus, PersonalLearning())):
                await wait_until_over(bus, "own")
        for round_, expected in ((1, None), (2, ref("own.1.client-00", 1)), (3, ref("own.2.client-00", 2))):
            assert {task.personal for task in fleet.tasks if task.id == f"own.{round_}.client-00"} == {expected}
        left = await states_of(bus, await sdk.job("own"))
        assert left["client-00"].own == ref("own.3.client-00", 3)


async def test_a_job_whose_clients_have_no_place_for_them_fails_before_its_first_round(
    sdk: Client, bus: Broker
) -> None:
    web = msgspec.structs.replace(fakes.clients(1)[0], data_loc="https://user:secret@host/shard.safetensors")
    await sdk.register([web, *clients(4)[1:]])
    fleet = Fleet(bus, answer)
    async with running(serve(bus, PersonalLearning()), fleet.serve()):
        messages = await watch_to_end(sdk, await sdk.submit(job(rounds=1)))
    (failed,) = events_of(messages, progress.JobFailed)
    assert failed.reason == (
        "model.personal needs a place that each client may write, and there is none for client-00 (https: can't be "
        "written): register them with a state_loc, for example by `fedkeeper clients add --state-loc`"
    )
    assert fleet.tasks == []
    assert events_of(messages, progress.RoundOpened) == []
