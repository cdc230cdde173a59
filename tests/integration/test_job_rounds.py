"""Rounds of a job, with fake clients: the mean, the quorum, failed rounds, client states."""

import hashlib
import time

import numpy as np
import pytest

from broker import topics
from broker.base import Broker
from broker.messages import progress, tensors
from broker.messages.round import BlobRef, RoundTask
from fedkeeper.sdk import Client
from server.aggregator import Aggregate, plan
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import events_of, watch_to_end


async def test_the_new_model_is_the_mean_weighted_by_samples(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus)
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 1}))
        await watch_to_end(sdk, job)
        model, _ = tensors.decode(await sdk.model(job))

    weights = [fakes.number(task.client_id) + 1 for task in fleet.tasks]
    biases = [fakes.trained(fakes.INITIAL, task)["layer.bias"].astype(np.float64) for task in fleet.tasks]
    np.testing.assert_allclose(model["layer.bias"], np.average(biases, axis=0, weights=weights), rtol=1e-7)
    assert model["norm.num_batches_tracked"] == 3
    assert tensors.layout(model) == tensors.layout(fakes.INITIAL)


def test_the_mean_of_updates_can_be_computed_without_a_server() -> None:
    aggregate = Aggregate(plan(fakes.INITIAL, frozenset(), 10))
    aggregate.add(fakes.INITIAL, 3)
    aggregate.add({name: array + array.dtype.type(1) for name, array in fakes.INITIAL.items()}, 1)
    np.testing.assert_allclose(aggregate.mean()["layer.bias"], [0.25] * 3)


async def test_a_round_closes_at_quorum_when_a_client_stays_silent(sdk: Client, bus: Broker) -> None:
    async def one_is_silent(bus: Broker, task: RoundTask) -> None:
        if task.client_id != "client-02":
            await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, one_is_silent).serve()):
        job = await sdk.submit(fakes.job(cohort={"quorum": 3}))
        messages = await watch_to_end(sdk, job)

    completed = events_of(messages, progress.RoundCompleted)
    assert [event.missing for event in completed] == [("client-02",), ("client-02",)]
    assert all(event.split.round_s >= 0.2 for event in completed)
    assert len(events_of(messages, progress.RoundQuorum)) == 2


async def test_the_time_split_adds_up(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job())
        messages = await watch_to_end(sdk, job)

    for event in events_of(messages, progress.RoundCompleted):
        split = event.split
        parts = (split.invocation_s, split.clients_start_s, split.training_s, split.aggregation_s)
        assert all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(split.round_s)
        assert event.bytes_in > 0


async def test_jobs_of_one_cohort_seed_invite_the_same_clients(sdk: Client, bus: Broker) -> None:
    async def cohorts(job_seed: int, **cohort: int) -> list[tuple[str, ...]]:
        job = await sdk.submit(fakes.job(seed=job_seed, cohort=cohort, data={"clients": 8}))
        return [event.cohort for event in events_of(await watch_to_end(sdk, job), progress.RoundOpened)]

    await sdk.register(fakes.clients(8))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        plain = await cohorts(1)
        assert await cohorts(2) != plain
        assert await cohorts(2, seed=1) == plain


@pytest.mark.parametrize(("policy", "failed"), [("stop", 1), ("retry", 3), ("skip", 3)])
async def test_a_round_without_quorum_fails_with_a_reason(sdk: Client, bus: Broker, policy: str, failed: int) -> None:
    async def silent(bus: Broker, task: RoundTask) -> None:
        """Send no update."""

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, silent).serve()):
        job = await sdk.submit(fakes.job(cohort={"deadline_s": 0.2, "on_failure": policy}, stop={"rounds": 9}))
        messages = await watch_to_end(sdk, job)

    failures = events_of(messages, progress.RoundFailed)
    assert [event.policy for event in failures] == [*[policy] * (failed - 1), "stop"]
    reason = events_of(messages, progress.JobFailed)[0].reason
    assert reason.startswith("0 of 4 needed updates when the deadline passed")
    assert f"; round {failed} failed" in reason


async def test_a_job_whose_clients_all_fail_for_good_ends_with_the_first_round_and_names_the_cause(
    sdk: Client, bus: Broker
) -> None:
    async def refuse(bus: Broker, task: RoundTask) -> None:
        await fakes.report(
            bus, task, "dead", 1, f"BadData: /srv/{task.client_id}.npz: y has no labels: set data.target"
        )

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, refuse).serve()):
        job = await sdk.submit(fakes.job())
        messages = await watch_to_end(sdk, job)
        record = await sdk.job(job)

    assert len(events_of(messages, progress.RoundFailed)) == 1
    assert record.reason.startswith("BadData: /srv/client-0")
    assert "set data.target (client-0" in record.reason
    assert record.reason.endswith("another one would fail in the same way")
    assert messages[-1].event == progress.JobFailed(reason=record.reason)
    assert record.failed is not None
    assert record.failed.policy == "stop"


async def test_a_job_that_waits_for_clients_says_so_on_record_until_it_runs(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 1}))
        async for message in sdk.watch(job):
            if isinstance(message.event, progress.JobWaiting):
                assert (await sdk.job(job)).waiting == message.event.reason
                await sdk.register(fakes.clients(4))
        assert not (await sdk.job(job)).waiting


@pytest.mark.parametrize("jump_s", [-700.0, 700.0])
async def test_a_jump_of_the_servers_clock_ends_no_round(sdk: Client, bus: Broker, jump_s: float) -> None:
    offset_s = [0.0]

    async def after_the_jump(bus: Broker, task: RoundTask) -> None:
        offset_s[0] = jump_s
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    server = serve(bus, FakeLearning(), clock=lambda: time.time() + offset_s[0])
    async with running(server, Fleet(bus, after_the_jump).serve()):
        messages = await watch_to_end(sdk, await sdk.submit(fakes.job(cohort={"deadline_s": 600.0})))
    assert not events_of(messages, progress.RoundFailed)
    assert messages[-1].event.what == "job.completed"


async def test_a_failed_round_is_done_again_with_fresh_tokens(sdk: Client, bus: Broker) -> None:
    async def late_the_first_time(bus: Broker, task: RoundTask) -> None:
        if task.round > 1:
            await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, late_the_first_time).serve()):
        job = await sdk.submit(fakes.job(cohort={"deadline_s": 1.0, "max_failures": 100}))
        messages = await watch_to_end(sdk, job)

    failed = [event.round for event in events_of(messages, progress.RoundFailed)]
    completed = [event.round for event in events_of(messages, progress.RoundCompleted)]
    # A machine that is too slow for the deadline fails more rounds than the first; each try has a number of its own.
    assert failed[0] == 1
    assert len(completed) == 2
    assert sorted(failed + completed) == list(range(1, len(failed) + 3))


async def test_a_client_s_next_task_names_the_state_of_its_last_counted_update(sdk: Client, bus: Broker) -> None:
    async def with_state(bus: Broker, task: RoundTask) -> None:
        topic = topics.client_state(task.job, task.client_id, task.round, 1, "opt")
        await bus.put(topic, b"moments")
        state = BlobRef(topic, hashlib.sha256(b"moments").hexdigest(), 7)
        content = fakes.update(
            fakes.trained(await fakes.base_of(bus, task), task), fakes.header(task, states={"opt": state})
        )
        await bus.publish(topics.update(task.job, task.round, task.client_id, 1), content)

    fleet = Fleet(bus, with_state)
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        job = await sdk.submit(fakes.job())
        await watch_to_end(sdk, job)

    for task in fleet.tasks:
        before = topics.client_state(job, task.client_id, task.round - 1, 1, "opt")
        assert [ref.topic for ref in task.states.values()] == ([before] if task.round > 1 else [])
        assert task.state == task.states.get("opt"), "functions of older versions read it there"
