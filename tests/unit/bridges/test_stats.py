"""The counts of a client's invocations."""

import asyncio

import msgspec
import pytest

import broker
from bridges.stats import AT_ONCE, StatsRecorder, with_invocation
from broker import topics
from broker.messages import codec
from broker.messages.invocation import Invocation, Outcome
from broker.messages.register import ClientStats


def invocation(outcome: Outcome, *, attempt: int = 1, round_: int = 1, cold: bool | None = None) -> Invocation:
    return Invocation(
        job="job",
        round=round_,
        client="client-00",
        platform="fake",
        attempt=attempt,
        outcome=outcome,
        activation=f"a{attempt}",
        cold=cold,
    )


def stats_of(*invocations: Invocation) -> ClientStats:
    stats: ClientStats | None = None
    for now_s, event in enumerate(invocations):
        stats = with_invocation(stats, event, now_s)
    assert stats is not None
    return stats


def test_a_run_counts_once_however_many_outcomes_it_has() -> None:
    stats = stats_of(invocation("accepted"), invocation("running", cold=True), invocation("succeeded"))
    assert (stats.invocations, stats.failures, stats.cold, stats.state, stats.seen_s) == (1, 0, 1, "succeeded", 2)


def test_failures_and_later_attempts_count() -> None:
    stats = stats_of(
        invocation("failed"), invocation("running", attempt=2, cold=False), invocation("succeeded", attempt=2)
    )
    assert (stats.invocations, stats.failures, stats.cold, stats.activation) == (2, 1, 0, "a2")


@pytest.mark.parametrize("outcome", ["refused", "restored", "expired"])
def test_an_attempt_without_a_run_is_not_counted_as_an_invocation(outcome: Outcome) -> None:
    stats = stats_of(invocation(outcome))
    assert (stats.invocations, stats.state) == (0, outcome)


async def test_a_bridge_goes_on_counting_where_the_last_one_stopped(memory_url: str) -> None:
    async with broker.connect(memory_url) as bus:
        for round_ in (1, 2):
            recorder = StatsRecorder(bus, "fake")
            recorder.add(invocation("running", round_=round_), 1.0)
            await recorder.flush()
        value = await bus.get(topics.client_stats("fake", "client-00"))
    assert value is not None
    assert codec.decode(ClientStats, value.payload).invocations == 2


async def test_the_counts_of_many_clients_are_written_and_what_comes_meanwhile_is_not_lost(memory_url: str) -> None:
    clients = [f"client-{number:02}" for number in range(3 * AT_ONCE)]
    async with broker.connect(memory_url) as bus:
        recorder = StatsRecorder(bus, "fake")
        for client in clients:
            recorder.add(msgspec.structs.replace(invocation("running"), client=client), 1.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(recorder.flush())
            for client in clients:
                await asyncio.sleep(0)
                recorder.add(msgspec.structs.replace(invocation("succeeded"), client=client), 2.0)
        await recorder.flush()
        stored = await bus.snapshot(topics.client_stats("fake", topics.ANY))
    stats = [codec.decode(ClientStats, value.payload) for value in stored.values()]
    assert sorted(each.client for each in stats) == clients
    assert {(each.invocations, each.state) for each in stats} == {(1, "succeeded")}
