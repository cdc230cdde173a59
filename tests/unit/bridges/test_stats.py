import pytest

import broker
from bridges.stats import StatsRecorder, with_invocation
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


def tallied(*events: Invocation) -> ClientStats:
    tally: ClientStats | None = None
    for now_s, event in enumerate(events):
        tally = with_invocation(tally, event, now_s)
    assert tally is not None
    return tally


def test_a_run_counts_once_however_much_is_heard_of_it() -> None:
    tally = tallied(invocation("accepted"), invocation("running", cold=True), invocation("succeeded"))
    assert (tally.invocations, tally.failures, tally.cold, tally.state, tally.seen_s) == (1, 0, 1, "succeeded", 2)


def test_failures_and_later_attempts_count() -> None:
    tally = tallied(
        invocation("failed"), invocation("running", attempt=2, cold=False), invocation("succeeded", attempt=2)
    )
    assert (tally.invocations, tally.failures, tally.cold, tally.activation) == (2, 1, 0, "a2")


@pytest.mark.parametrize("outcome", ["refused", "restored", "expired"])
def test_what_never_ran_is_no_invocation(outcome: Outcome) -> None:
    tally = tallied(invocation(outcome))
    assert (tally.invocations, tally.state) == (0, outcome)


async def test_a_bridge_goes_on_counting_where_the_last_one_stopped(memory_url: str) -> None:
    async with broker.connect(memory_url) as bus:
        for round_ in (1, 2):
            recorder = StatsRecorder(bus, "edge")
            recorder.add(invocation("running", round_=round_), 1.0)
            await recorder.flush()
        found = await bus.get(topics.client_stats("edge", "client-00"))
    assert found is not None
    assert codec.decode(ClientStats, found.payload).invocations == 2
