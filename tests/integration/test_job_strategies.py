"""Jobs with a strategy that has a client half or parts: what tasks say, which states count, and what is refused."""

import asyncio
from collections import defaultdict
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, codec, progress
from broker.messages import tensors as payload
from broker.messages.job_record import JobRecord
from broker.messages.round import RoundTask
from fedkeeper.errors import JobRefused
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes, strategy_clients
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import WITHIN_S, digest, events_of, watch_to_end

SGD: Final = {"optimizer": "sgd"}
COMBINATIONS: Final[tuple[tuple[dict[str, Any], str, str], ...]] = (
    ({"strategy": {"name": "median"}, "cohort": {"clients": 2}}, "strategy.name", "the median of fewer updates"),
    ({"strategy": {"name": "krum", "faulty": 1}}, "strategy.name", "a quorum of at least 5 is needed, and it is 4"),
    (
        {"strategy": {"name": "fedadam", "over": {"name": "krum"}}},
        "strategy.over.name",
        "a quorum of at least 5 is needed",
    ),
    (
        {"strategy": {"name": "trimmed_mean", "share": 0.2}},
        "strategy.share",
        "leaves out none of the 4 updates of a quorum: at least 0.25",
    ),
    ({"strategy": {"name": "scaffold"}}, "strategy.name", "needs training.optimizer = 'sgd', and it is 'adam'"),
    ({"strategy": {"name": "fedavg", "over": {"name": "fednova"}}}, "strategy.over.name", "training.optimizer = 'sgd'"),
    (
        {"strategy": {"name": "scaffold"}, "training": {**SGD, "optimizer_args": {"momentum": 0.9}}},
        "strategy.name",
        "its arithmetic holds for sgd without momentum",
    ),
    (
        {"strategy": {"name": "qfedavg"}, "training": {**SGD, "scheduler": "OneCycleLR"}},
        "strategy.name",
        "needs one learning rate in a round",
    ),
    (
        {"strategy": {"name": "qfedavg"}, "training": SGD, "override": [{"learning_rate": 0.5}]},
        "strategy.name",
        "the same learning rate at all clients",
    ),
    (
        {"strategy": {"name": "scaffold"}, "training": {**SGD, "update": "weights"}},
        "training.update",
        "scaffold needs 'delta'",
    ),
    (
        {"strategy": {"name": "fedavg", "guard": {"name": "median"}}, "training": {"update": "weights"}},
        "training.update",
        "strategy.guard needs 'delta'",
    ),
    (
        {"strategy": {"name": "feddyn"}, "training": {"update": "bf16"}},
        "training.update",
        "feddyn needs 'delta': clients add up their exact changes",
    ),
    ({"strategy": {"name": "scaffold"}, "training": {**SGD, "dry": True}}, "training.dry", "needs a training"),
    (
        {"strategy": {"name": "scaffold", "guard": {"name": "fixed", "norm": 1.0}}, "training": SGD},
        "strategy.guard.name",
        "use 'median'",
    ),
    (
        {"strategy": {"name": "fedavg", "over": {"name": "median", "guard": {"name": "median"}}}},
        "strategy.over.guard",
        "belongs to the strategy itself: strategy.guard",
    ),
    ({"strategy": {"name": "fedavg", "over": {"name": "fedadam"}}}, "strategy.over.name", "expected one of"),
    ({"strategy": {"name": "scaffold", "over": {"name": "median"}}, "training": SGD}, "strategy.over", ""),
    ({"strategy": {"name": "fedavg", "local": {"name": "scaffold"}}}, "strategy.local.name", "'fedprox'"),
)
"""Jobs that can't be combined, the field that is named, and a part of the sentence."""


async def test_what_can_t_be_combined_is_refused_at_submission_with_a_sentence(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, strategy_clients.answer).serve()):
        for number, (sections, field, sentence) in enumerate(COMBINATIONS):
            job = {**msgspec.to_builtins(fakes.job()), **sections}
            job["cohort"] = {**msgspec.to_builtins(fakes.job().cohort), **sections.get("cohort", {})}
            await bus.publish(topics.submission(f"refused-{number}"), msgspec.json.encode(job))
            with pytest.raises(JobRefused) as refused:
                async with asyncio.timeout(WITHIN_S):
                    await sdk.wait_until_accepted(f"refused-{number}")
            assert (refused.value.field, sentence in str(refused.value)) == (field, True), refused.value
        good = await sdk.submit(fakes.job(**strategy_clients.JOBS["scaffold"]))
        assert (await watch_to_end(sdk, good))[-1].event.what == "job.completed"


class OldFedAvg(msgspec.Struct, tag_field="name", tag="fedavg"):
    """Without parameters."""


class OldFedProx(msgspec.Struct, tag_field="name", tag="fedprox"):
    """With one."""

    mu: float = 0.01


class OldTask(msgspec.Struct):
    """What a function of an older version reads of a task, which knows two strategies."""

    strategy: OldFedAvg | OldFedProx


@pytest.mark.parametrize(
    ("strategy", "half"),
    [
        ({"name": "fedadam", "over": {"name": "median"}, "local": {"name": "fedprox", "mu": 0.5}}, OldFedProx(0.5)),
        ({"name": "fedprox", "mu": 0.25, "guard": {"name": "median"}}, OldFedProx(0.25)),
        ({"name": "fedyogi", "guard": {"name": "quantile"}}, OldFedAvg()),
        ({"name": "median"}, OldFedAvg()),
    ],
)
async def test_a_function_that_knows_two_strategies_can_do_the_client_half_of_what_is_the_server_s(
    sdk: Client, bus: Broker, strategy: dict[str, Any], half: OldFedAvg | OldFedProx
) -> None:
    read = []

    async def old(bus: Broker, task: RoundTask) -> None:
        event = cloudevents.encode(cloudevents.Envelope(task.id, "/server", "round.task", 1.0), task)
        read.append(cloudevents.data_of(event, OldTask).strategy)
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, old).serve()):
        messages = await watch_to_end(sdk, await sdk.submit(fakes.job(strategy=strategy)))
    assert read == [half] * 8
    assert messages[-1].event.what == "job.completed"


@pytest.mark.parametrize("name", ["scaffold", "feddyn", "qfedavg"])
async def test_an_update_without_the_client_s_half_is_refused_with_what_to_do(
    sdk: Client, bus: Broker, name: str
) -> None:
    """As a function of an older version would send it, which trains as fedavg whatever the task says."""

    async def old(bus: Broker, task: RoundTask) -> None:
        await strategy_clients.answer(bus, task, strategy="fedavg")

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, old).serve()):
        messages = await watch_to_end(sdk, await sdk.submit(fakes.job(**strategy_clients.JOBS[name])))
    refusals = events_of(messages, progress.UpdateRefused)
    reason = f"trained as fedavg, the job's strategy is {name}: upgrade the function"
    assert {(event.code, event.reason) for event in refusals} == {("strategy", reason)}
    assert reason in events_of(messages, progress.JobFailed)[0].reason


async def test_the_record_says_how_many_clients_hold_the_data_whoever_takes_part(sdk: Client, bus: Broker) -> None:
    """SCAFFOLD and FedDyn divide by this number."""
    holders, controls = list[int](), list[np.ndarray[Any, Any]]()

    async def answer(bus: Broker, task: RoundTask) -> None:
        value = await bus.get(topics.job_record(task.job))
        assert value is not None
        holders.append(codec.decode(JobRecord, value.payload).holders)
        controls.append((await strategy_clients.blob_of(bus, task.along)).get("layer.bias", np.zeros(3)))
        await strategy_clients.answer(bus, task)

    differences: tuple[dict[str, Any], ...] = ({"platform": "away"}, {"paused": True}, {"labels": {"data": "other"}})
    others = [
        msgspec.structs.replace(client, **changes)
        for client, changes in zip(fakes.clients(3, first=10), differences, strict=True)
    ]
    await sdk.register([*fakes.clients(4), *others])
    sections = strategy_clients.JOBS["scaffold"]
    job = fakes.job(**sections, cohort={"clients": 2}, data={"clients": 4}, stop={"rounds": 2})
    async with running(serve(bus, FakeLearning()), Fleet(bus, answer).serve()):
        fleet_job = await sdk.submit(job)
        await watch_to_end(sdk, fleet_job)
    assert holders == [5] * 4
    assert not controls[0].any()
    assert controls[2].any()


class States:
    """Clients that note which states their tasks bring.

    Attributes:
        brought: number of the round that has left the state, by round and client; 0: there is none.
        controls: by round: the mean of the clients' own controls, and the server's.
    """

    def __init__(self) -> None:
        self.brought: defaultdict[int, dict[str, int]] = defaultdict(dict)
        self.own: defaultdict[int, dict[str, float]] = defaultdict(dict)
        self.along: dict[int, float] = {}

    async def note(self, bus: Broker, task: RoundTask) -> None:
        ref, client = task.states.get("scaffold"), task.client_id
        # The topic is fl.state.<job>.<client>.<round>.<attempt>.<name>.
        self.brought[task.round][client] = 0 if ref is None else int(ref.topic.split(".")[4])
        zeros = {"layer.bias": np.zeros(3)}
        states = await strategy_clients.states_of(bus, task)
        self.own[task.round][client] = float(states.get("scaffold", zeros)["layer.bias"][0])
        along = await strategy_clients.blob_of(bus, task.along)
        self.along[task.round] = float((along or zeros)["layer.bias"][0])


def scaffold(rounds: int, **cohort: Any) -> Any:
    sections = strategy_clients.JOBS["scaffold"]
    return fakes.job(**sections, stop={"rounds": rounds}, cohort={"grace_s": 600.0, **cohort}, data={"clients": 4})


async def test_only_a_counted_update_advances_a_client_s_state(sdk: Client, bus: Broker) -> None:
    """In round 2 the update of client-00 is refused; round 3 fails, and all that has come in it counts for nothing."""
    states, answered = States(), asyncio.Event()

    async def answer(bus: Broker, task: RoundTask) -> None:
        await states.note(bus, task)
        is_first = task.client_id == "client-00"
        if is_first and task.round == 2:
            await strategy_clients.answer(bus, task, samples=10**9)
        elif not is_first and task.round == 3:
            await answered.wait()
            await fakes.report(bus, task, "dead", reason="it is broken")
        else:
            await strategy_clients.answer(bus, task)
            if is_first and task.round == 3:
                answered.set()

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, answer).serve()):
        messages = await watch_to_end(sdk, await sdk.submit(scaffold(4, quorum=0.75)))
    assert [event.code for event in events_of(messages, progress.UpdateRefused)] == ["samples"]
    assert [event.round for event in events_of(messages, progress.RoundFailed)] == [3]
    counted = [(event.round, len(event.counted)) for event in events_of(messages, progress.RoundCompleted)]
    assert counted == [(1, 4), (2, 3), (4, 4), (5, 4)]
    everyone = [f"client-{i:02d}" for i in range(4)]
    assert states.brought[2] == dict.fromkeys(everyone, 1)
    assert states.brought[3] == {"client-00": 1, **dict.fromkeys(everyone[1:], 2)}
    assert states.brought[4] == states.brought[3], "a failed round has advanced a state"
    assert states.brought[5] == dict.fromkeys(everyone, 4)
    for round_ in (2, 3, 4, 5):
        mean = sum(states.own[round_].values()) / 4
        assert states.along[round_] == pytest.approx(mean, abs=1e-6), f"the controls differ in round {round_}"


async def test_a_second_attempt_starts_from_the_same_state(sdk: Client, bus: Broker) -> None:
    """A first attempt has kept its state and died before its update: nobody ever uses that state."""
    tries, states = list[tuple[str, int]](), States()

    async def again(bus: Broker, task: RoundTask) -> None:
        await states.note(bus, task)
        sent, kept = await strategy_clients.train(bus, task)
        topic = topics.client_state(task.job, task.client_id, task.round, 1, "scaffold")
        await bus.put(topic, payload.encode(kept["scaffold"]))
        await fakes.report(bus, task, "failed", reason="it died")
        second, _ = await strategy_clients.train(bus, task)
        assert all(np.array_equal(sent[name], second[name]) for name in sent)
        await strategy_clients.answer(bus, task, attempt=2)
        tries.append((task.client_id, task.round))

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, strategy_clients.answer).serve()):
        undisturbed = await sdk.submit(scaffold(3))
        await watch_to_end(sdk, undisturbed)
    async with running(serve(bus, FakeLearning()), Fleet(bus, again).serve()):
        job = await sdk.submit(scaffold(3))
        await watch_to_end(sdk, job)
    assert len(tries) == 12
    assert await digest(sdk, job) == await digest(sdk, undisturbed)
    assert states.brought[3] == {f"client-{i:02d}": 2 for i in range(4)}
