"""Jobs on the FL server, with fake clients: what counts, what does not, and what people are told."""

import asyncio
import hashlib
from contextlib import aclosing
from typing import Any

import msgspec
import numpy as np
import pytest

from broker import topics
from broker.base import Broker
from broker.messages import codec, progress, tensors
from broker.messages.job_record import JobRecord
from broker.messages.progress import Progress
from broker.messages.register import Presence
from broker.messages.round import BlobRef, RoundTask, nonce, token
from broker.support.tasks import task_group
from fedkeeper.errors import JobRefused
from fedkeeper.sdk import Client
from server import invitations, strategy
from server.aggregator import Aggregate, plan
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running

WITHIN_S = 120.0
KNOWN = "known to the test"
FORGED = b'\xffFKCHUNKS1{"sha256":"' + b"0" * 64 + b'","size":9000000,"chunk_bytes":1048576}'


async def events(sdk: Client, job: str) -> list[Progress]:
    async with asyncio.timeout(WITHIN_S):
        return [said async for said in sdk.watch(job)]


def of(said: list[Progress], kind: type[Any]) -> list[Any]:
    return [one.event for one in said if isinstance(one.event, kind)]


async def digest(sdk: Client, job: str) -> str:
    record = await sdk.job(job)
    assert record.model is not None
    return record.model.sha256


async def test_a_job_is_trained_round_by_round(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus)
    await sdk.register(fakes.clients(10))
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        job = await sdk.submit(fakes.job())
        said = await events(sdk, job)

    whats = [one.event.what for one in said]
    assert of(said, progress.JobAccepted)[0].job == fakes.job()
    assert whats[:2] == ["job.accepted", "job.started"]
    assert whats[-1] == "job.completed"
    assert whats.count("update.counted") == 8
    assert [one.round for one in of(said, progress.RoundCompleted)] == [1, 2]
    assert [one.round for one in of(said, progress.ModelEvaluated)] == [1, 2]
    assert set(fleet.task_counts.values()) == {1}
    record = await sdk.job(job)
    assert (record.phase, record.done) == ("completed", 2)


async def test_the_new_model_is_the_mean_weighted_by_samples(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus)
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 1}))
        await events(sdk, job)
        model, _ = tensors.decode(await sdk.model(job))

    weights = [fakes.number(task.client_id) + 1 for task in fleet.tasks]
    biases = [fakes.trained(fakes.INITIAL, task)["layer.bias"].astype(np.float64) for task in fleet.tasks]
    np.testing.assert_allclose(model["layer.bias"], np.average(biases, axis=0, weights=weights), rtol=1e-7)
    assert model["norm.num_batches_tracked"] == 3
    assert tensors.layout(model) == tensors.layout(fakes.INITIAL)


async def test_every_task_and_every_update_twice_gives_the_same_model(sdk: Client, bus: Broker) -> None:
    async def twice(bus: Broker, task: RoundTask) -> None:
        for attempt in (1, 1, 2):
            await fakes.answer(bus, task, attempt)

    async def tasks_again() -> None:
        """Publish every task once more, as a server that is not sure whether it did would."""
        async with bus.subscribe(topics.progress(topics.ANY, "round", "opened"), start="new") as opened:
            async for delivery in opened:
                said = progress.decode(await delivery.read())
                record = await sdk.job(said.job)
                round_nonce = nonce(KNOWN, record.id, record.round)
                await invitations.send(bus, record, round_nonce, strategy.create(record.job))

    once, doubled = Fleet(bus), Fleet(bus, twice)
    await sdk.register(fakes.clients(10))
    async with running(serve(bus, FakeLearning()), once.serve()):
        first = await sdk.submit(fakes.job())
        await events(sdk, first)
    async with running(serve(bus, FakeLearning(), secret=lambda: KNOWN), doubled.serve(), tasks_again()):
        second = await sdk.submit(fakes.job())
        said = await events(sdk, second)

    assert await digest(sdk, first) == await digest(sdk, second)
    assert len(of(said, progress.UpdateCounted)) == 8


async def test_bad_updates_are_refused_with_a_reason_and_change_nothing(sdk: Client, bus: Broker) -> None:
    async def with_rubbish(bus: Broker, task: RoundTask) -> None:
        good = fakes.trained(await fakes.base_of(bus, task), task)
        bad = {name: array.copy() for name, array in good.items()}
        bad["layer.weight"][0, 0] = np.nan
        huge = {**good, "layer.bias": good["layer.bias"] + np.float32(1e9)}
        rubbish: list[tuple[str, bytes]] = [
            ("malformed", b"rubbish"),
            ("finite", fakes.update(bad, fakes.header(task, 2))),
            ("magnitude", fakes.update(huge, fakes.header(task, 3))),
            ("layout", fakes.update({"layer.weight": good["layer.weight"]}, fakes.header(task, 4))),
            ("token", fakes.update(good, fakes.header(task, 5, token="0" * 64))),
            ("base", fakes.update(good, fakes.header(task, 6, base="0" * 64))),
            ("samples", fakes.update(good, fakes.header(task, 7, samples=1000))),
            ("foreign", fakes.update(good, fakes.header(task, 9, client="client-99"))),
        ]
        for attempt, (_, content) in enumerate(rubbish, start=1):
            await bus.publish(topics.update(task.job, task.round, task.client_id, attempt), content)
        early = topics.update(task.job, task.round + 7, task.client_id, 1)
        await bus.publish(early, fakes.update(good, fakes.header(task, round=task.round + 7)))
        await fakes.answer(bus, task, 20)
        await bus.publish(topics.update(task.job, task.round, task.client_id, 21), b"too late")

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        clean = await sdk.submit(fakes.job())
        await events(sdk, clean)
    async with running(serve(bus, FakeLearning()), Fleet(bus, with_rubbish).serve()):
        attacked = await sdk.submit(fakes.job())
        said = await events(sdk, attacked)

    assert await digest(sdk, clean) == await digest(sdk, attacked)
    codes = {one.code for one in of(said, progress.UpdateRefused)}
    assert codes >= {"malformed", "finite", "magnitude", "layout", "token", "base", "samples", "foreign", "early"}
    assert codes & {"duplicate", "late"}


async def test_a_round_closes_at_quorum_when_a_client_stays_silent(sdk: Client, bus: Broker) -> None:
    async def one_is_silent(bus: Broker, task: RoundTask) -> None:
        if task.client_id != "client-02":
            await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, one_is_silent).serve()):
        job = await sdk.submit(fakes.job(cohort={"quorum": 3}))
        said = await events(sdk, job)

    completed = of(said, progress.RoundCompleted)
    assert [one.missing for one in completed] == [("client-02",), ("client-02",)]
    assert all(one.split.round_s >= 0.2 for one in completed)
    assert len(of(said, progress.RoundQuorum)) == 2


async def test_the_time_split_adds_up(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job())
        said = await events(sdk, job)

    for one in of(said, progress.RoundCompleted):
        split = one.split
        parts = (split.invocation_s, split.clients_start_s, split.training_s, split.aggregation_s)
        assert all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(split.round_s)
        assert one.bytes_in > 0


@pytest.mark.parametrize(("policy", "failed"), [("stop", 1), ("retry", 3), ("skip", 3)])
async def test_a_round_without_quorum_fails_loudly(sdk: Client, bus: Broker, policy: str, failed: int) -> None:
    async def silent(bus: Broker, task: RoundTask) -> None:
        """Never an answer."""

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, silent).serve()):
        job = await sdk.submit(fakes.job(cohort={"deadline_s": 0.2, "on_failure": policy}, stop={"rounds": 9}))
        said = await events(sdk, job)

    assert len(of(said, progress.RoundFailed)) == failed
    assert f"round {failed} failed: 0 of 4 needed updates" in of(said, progress.JobFailed)[0].reason


async def test_a_failed_round_is_done_again_with_fresh_tokens(sdk: Client, bus: Broker) -> None:
    async def late_the_first_time(bus: Broker, task: RoundTask) -> None:
        if task.round > 1:
            await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, late_the_first_time).serve()):
        job = await sdk.submit(fakes.job(cohort={"deadline_s": 1.0, "max_failures": 100}))
        said = await events(sdk, job)

    failed = [one.round for one in of(said, progress.RoundFailed)]
    completed = [one.round for one in of(said, progress.RoundCompleted)]
    # A machine that is too slow for the deadline fails more rounds than the first; each try has a number of its own.
    assert failed[0] == 1
    assert len(completed) == 2
    assert sorted(failed + completed) == list(range(1, len(failed) + 3))


async def test_a_job_waits_for_clients_says_so_and_goes_on(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job())
        async for said in sdk.watch(job):
            if isinstance(said.event, progress.JobWaiting):
                assert "0 of 4 clients" in said.event.reason
                await sdk.register(fakes.clients(4))
        assert (await sdk.job(job)).phase == "completed"


async def test_a_job_does_not_wait_for_ever(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job(cohort={"wait_s": 0.2}))
        said = await events(sdk, job)
    assert "0 of 4 clients that hold" in of(said, progress.JobFailed)[0].reason


async def test_a_cancelled_job_ends_and_keeps_its_model(sdk: Client, bus: Broker) -> None:
    hold = asyncio.Event()

    async def hold_round_two(bus: Broker, task: RoundTask) -> None:
        if task.round == 2:
            await hold.wait()
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, hold_round_two).serve()):
        job = await sdk.submit(fakes.job())
        async for said in sdk.watch(job):
            if isinstance(said.event, progress.RoundOpened) and said.event.round == 2:
                await sdk.cancel(job)
        assert (await sdk.job(job)).phase == "cancelled"
        assert await sdk.model(job)


async def test_a_job_that_waits_for_clients_can_be_cancelled(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job())
        async with asyncio.timeout(WITHIN_S):
            async for said in sdk.watch(job):
                if isinstance(said.event, progress.JobWaiting):
                    await sdk.cancel(job)
        assert (await sdk.job(job)).phase == "cancelled"


async def test_the_target_accuracy_ends_a_job_early(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 50, "target_accuracy": 0.1}))
        said = await events(sdk, job)
    assert 1 < (await sdk.job(job)).done < 50
    assert "reached the target 0.1" in of(said, progress.JobCompleted)[0].reason


async def test_a_job_whose_record_has_no_secret_gets_one(sdk: Client, bus: Broker) -> None:
    fleet, record = Fleet(bus), JobRecord(id="bare", job=fakes.job())
    await sdk.register(fakes.clients(4))
    await bus.put(topics.job_record("bare"), codec.encode(record))
    async with running(serve(bus, FakeLearning(), secret=lambda: KNOWN), fleet.serve()):
        assert (await events(sdk, "bare"))[-1].event.what == "job.completed"
    wanted = [token(nonce(KNOWN, "bare", task.round), task.client_id) for task in fleet.tasks]
    assert [task.token for task in fleet.tasks] == wanted


async def test_several_jobs_run_at_once_and_one_that_fails_harms_no_other(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning(fails_on="missing")), Fleet(bus).serve()):
        good = [await sdk.submit(fakes.job(f"good-{i}")) for i in range(3)]
        bad = await sdk.submit(fakes.job("bad", data={"dataset": "missing"}))
        said = [await events(sdk, job) for job in (*good, bad)]

    assert [one[-1].event.what for one in said] == ["job.completed"] * 3 + ["job.failed"]
    assert "put it there" in of(said[-1], progress.JobFailed)[0].reason
    assert len({await digest(sdk, job) for job in good}) == 1


async def test_two_servers_on_one_broker_agree(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus)
    await sdk.register(fakes.clients(10))
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        alone = await sdk.submit(fakes.job(stop={"rounds": 4}))
        await events(sdk, alone)
    async with running(serve(bus, FakeLearning()), serve(bus, FakeLearning()), fleet.serve()):
        both = await sdk.submit(fakes.job(stop={"rounds": 4}))
        said = await events(sdk, both)

    assert await digest(sdk, alone) == await digest(sdk, both)
    assert [one.round for one in of(said, progress.RoundCompleted)] == [1, 2, 3, 4]
    tokens = {(task.id, task.token) for task in fleet.tasks}
    assert len(tokens) == len({task.id for task in fleet.tasks}), "a task was sent with two tokens"


async def test_a_clients_next_task_names_the_state_of_its_last_counted_update(sdk: Client, bus: Broker) -> None:
    async def with_state(bus: Broker, task: RoundTask) -> None:
        topic = topics.optimizer_state(task.job, task.client_id, task.round, 1)
        await bus.put(topic, b"moments")
        state = BlobRef(topic, hashlib.sha256(b"moments").hexdigest(), 7)
        content = fakes.update(fakes.trained(await fakes.base_of(bus, task), task), fakes.header(task, state=state))
        await bus.publish(topics.update(task.job, task.round, task.client_id, 1), content)

    fleet = Fleet(bus, with_state)
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        job = await sdk.submit(fakes.job())
        await events(sdk, job)

    for task in fleet.tasks:
        before = topics.optimizer_state(job, task.client_id, task.round - 1, 1)
        assert (task.state and task.state.topic) == (before if task.round > 1 else None)


@pytest.mark.parametrize(
    ("job", "field"),
    [
        ({"cohort": {"clients": 0}}, "cohort.clients"),
        ({"training": {"optimizer": "rmsprop"}}, "training.optimizer"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_refused_job_names_the_field_and_the_server_stays_up(
    sdk: Client, bus: Broker, job: dict[str, Any], field: str
) -> None:
    import msgspec

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        await bus.publish(topics.submission("refused"), msgspec.json.encode(job))
        with pytest.raises(JobRefused, match=field) as refused:
            async with asyncio.timeout(WITHIN_S):
                await sdk.wait_until_accepted("refused")
        assert refused.value.field == field
        good = await sdk.submit(fakes.job())
        assert (await events(sdk, good))[-1].event.what == "job.completed"


async def test_a_job_that_a_newer_server_has_moved_is_left_to_it(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()), asyncio.timeout(WITHIN_S):
        job = await sdk.submit(fakes.job())
        async for said in sdk.watch(job):
            if said.event.what == "job.waiting":
                break
        found = await bus.get(topics.job_record(job))
        assert found is not None
        newer = msgspec.json.encode({"id": job, "schema": 2, "rounds": "in another shape"})
        await bus.put(topics.job_record(job), newer, revision=found.revision)
        await bus.publish(topics.cancellation(job), b"{}")
        await sdk.register(fakes.clients(4))
        good = await sdk.submit(fakes.job())
        assert (await events(sdk, good))[-1].event.what == "job.completed"
    left = await bus.get(topics.job_record(job))
    assert left is not None
    assert left.payload == newer


def test_the_fold_is_what_an_auditor_would_compute() -> None:
    """The expected digest of a round can be computed from its updates alone, without a server."""
    layout = tensors.layout(fakes.INITIAL)
    aggregate = Aggregate(plan(fakes.INITIAL, layout, frozenset(), 10))
    aggregate.add(fakes.INITIAL, 3)
    aggregate.add({name: array + array.dtype.type(1) for name, array in fakes.INITIAL.items()}, 1)
    np.testing.assert_allclose(aggregate.mean()["layer.bias"], [0.25] * 3)


async def test_rubbish_in_the_register_and_in_a_manifest_takes_nothing_down(sdk: Client, bus: Broker) -> None:
    async def after_a_bad_manifest(bus: Broker, task: RoundTask) -> None:
        # What a chunked payload starts with, and then bytes that are no UTF-8.
        await bus._publish(topics.update(task.job, task.round, task.client_id, 1), b"\xffFKCHUNKS1\xff\xfe", None)
        await fakes.answer(bus, task, 2)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, after_a_bad_manifest).serve()):
        await bus.put(topics.client("rubbish"), b"\xff\xfe")
        job = await sdk.submit(fakes.job())
        said = await events(sdk, job)
    assert said[-1].event.what == "job.completed"
    assert {one.code for one in of(said, progress.UpdateRefused)} == {"malformed"}


async def test_forged_manifests_on_the_open_topics_harm_no_job(sdk: Client, bus: Broker) -> None:
    async def after_forgeries(bus: Broker, task: RoundTask) -> None:
        # As a manifest it announces chunks that nobody has stored.
        for topic in (
            topics.invocation("fake", task.client_id),
            topics.progress(task.job, "round", "opened"),
            topics.progress(task.job, "job", "waiting"),
        ):
            await bus._publish(topic, FORGED, None)
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, after_forgeries).serve()):
        said = await events(sdk, await sdk.submit(fakes.job()))
    assert said[-1].event.what == "job.completed"


async def test_clients_whose_bridge_is_not_there_are_not_invited(sdk: Client, bus: Broker) -> None:
    absent = [msgspec.structs.replace(client, platform="away") for client in fakes.clients(8)[4:]]
    await sdk.register([*fakes.clients(4), *absent])
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        said = await events(sdk, await sdk.submit(fakes.job()))
        there = {client.id for client in fakes.clients(4)}
        assert all(set(opened.cohort) == there for opened in of(said, progress.RoundOpened))
        job = await sdk.submit(fakes.job(cohort={"clients": 5, "wait_s": 0.3}))
        failed = of(await events(sdk, job), progress.JobFailed)[0]
    assert "8 of 5 clients that hold 'own-shards2-c10-s0' are registered" in failed.reason
    assert "4 of them on away, whose bridge is not there" in failed.reason


async def there_until_a_round_opens(sdk: Client, platform: str) -> None:
    """A bridge that takes no tasks, and is not heard any more once a round is open."""
    here = Presence(bridge=f"{platform}-1", platform=platform, every_s=0.1)
    async with task_group() as group:

        async def announce() -> None:
            while True:
                await sdk.broker.put(topics.presence(here.platform, here.bridge), msgspec.json.encode(here))
                await asyncio.sleep(here.every_s / 2)

        announcing = group.create_task(announce(), name=f"presence of {here.bridge}")
        async with aclosing(sdk.watch()) as events:
            async for said in events:
                if isinstance(said.event, progress.RoundOpened):
                    break
        announcing.cancel()


async def test_a_bridge_that_dies_in_a_round_is_not_waited_for_until_the_deadline(sdk: Client, bus: Broker) -> None:
    dying = [msgspec.structs.replace(client, platform="dying") for client in fakes.clients(4)[3:]]
    await sdk.register([*fakes.clients(3), *dying])
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve(), there_until_a_round_opens(sdk, "dying")):
        spec = fakes.job(cohort={"quorum": 3, "grace_s": 1000.0, "deadline_s": 1000.0}, stop={"rounds": 1})
        said = await events(sdk, await sdk.submit(spec))
    assert "no bridge of dying is there" in of(said, progress.ClientFailed)[0].reason
    assert of(said, progress.RoundCompleted)[0].missing == (dying[0].id,)


async def test_presence_may_be_ignored(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job(cohort={"presence": "ignored", "deadline_s": 0.2, "on_failure": "stop"}))
        assert of(await events(sdk, job), progress.RoundOpened)


@pytest.mark.slow
async def test_a_bridge_that_has_gone_is_waited_for_where_the_quorum_needs_it(sdk: Client, bus: Broker) -> None:
    dying = [msgspec.structs.replace(client, platform="dying") for client in fakes.clients(4)[3:]]
    await sdk.register([*fakes.clients(3), *dying])
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve(), there_until_a_round_opens(sdk, "dying")):
        job = await sdk.submit(fakes.job(cohort={"quorum": 1.0, "deadline_s": 5.0, "on_failure": "stop"}))
        said = await events(sdk, job)
    assert not of(said, progress.ClientFailed)
    opened, failed = of(said, progress.RoundOpened)[0], of(said, progress.RoundFailed)[0]
    assert "3 of 4" in failed.reason
    assert opened.deadline_s > 0
