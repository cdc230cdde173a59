"""One attempt, followed by the events of its platform and the reports of its function."""

import asyncio
from collections.abc import AsyncGenerator, Iterable

import pytest

from bridges import Activation, Invoker, RetryPolicy
from bridges.attempt import follow_attempt
from bridges.errors import FunctionGone, InvocationFailed, NoReport, NotStarted, OutcomeUnknown, PlatformFailed
from bridges.reports import PlatformDone, RunEvent
from broker.messages.function import Change
from broker.messages.invocation import Outcome, Report
from broker.messages.round import RoundTask
from tests.support.tasks import task

IMPATIENT = RetryPolicy(retry_first_s=0.0, start_s=0.0, run_s=0.0)
TASK = task()


class Records:
    """The outcomes that were recorded."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.runs: list[tuple[str, bool | None]] = []
        self.reasons: list[str] = []

    async def record(
        self, outcome: Outcome, *, activation: str = "", cold: bool | None = None, reason: str = ""
    ) -> None:
        self.outcomes.append(outcome)
        self.runs.append((activation, cold))
        self.reasons.append(reason)


def training(attempt: int = 1, *, cold: bool = True) -> Report:
    return Report(TASK.id, "training", cold=cold, attempt=attempt, activation="seen-inside")


def done(attempt: int = 1) -> Report:
    return Report(TASK.id, "done", attempt=attempt, activation="seen-inside")


def failed(attempt: int = 1, *, retryable: bool = True) -> Report:
    return Report(TASK.id, "failed", reason="it broke", retryable=retryable, attempt=attempt)


async def followed(*events: RunEvent, attempt: int = 1) -> Records:
    queue: asyncio.Queue[RunEvent] = asyncio.Queue()
    for event in events:
        queue.put_nowait(event)
    records = Records()
    async with asyncio.timeout(5):
        await follow_attempt(attempt, queue, IMPATIENT, records.record)
    return records


async def test_a_platform_can_follow_a_whole_run() -> None:
    records = await followed(
        Activation("a1", "accepted"),
        Activation("a1", "running", cold=True),
        Activation("a1", "succeeded"),
        PlatformDone(),
    )
    assert records.outcomes == ["accepted", "running", "succeeded"]
    assert records.runs[1] == ("a1", True)


async def test_the_function_s_reports_complete_what_its_platform_can_t_tell() -> None:
    records = await followed(Activation("m1", "accepted"), PlatformDone(), training(), done())
    assert records.outcomes == ["accepted", "running", "succeeded"]
    assert [activation for activation, _ in records.runs] == ["m1", "m1", "m1"]


async def test_a_run_that_succeeded_was_running_even_without_an_event() -> None:
    records = await followed(Activation("a1", "succeeded", cold=True))
    assert records.outcomes == ["running", "succeeded"]
    assert records.runs == [("a1", True), ("a1", None)]


async def test_no_state_is_recorded_twice() -> None:
    records = await followed(training(), Activation("a1", "running", cold=False), training(), done())
    assert records.outcomes == ["running", "succeeded"]


async def test_a_report_that_it_is_done_ends_the_wait_for_a_platform_that_hangs() -> None:
    assert (await followed(training(), done())).outcomes == ["running", "succeeded"]


async def test_a_run_that_its_platform_lost_sight_of_goes_on_if_it_was_seen_training() -> None:
    assert (await followed(training(), PlatformDone(OutcomeUnknown("504")), done())).outcomes == [
        "running",
        "succeeded",
    ]


async def test_a_run_that_its_platform_lost_sight_of_and_that_never_trained_has_failed() -> None:
    with pytest.raises(OutcomeUnknown, match="504"):
        await followed(PlatformDone(OutcomeUnknown("504")), done())


async def test_a_function_that_dies_while_it_trains_has_failed() -> None:
    with pytest.raises(InvocationFailed, match="it died while it trained: 500 by the watchdog") as failure:
        await followed(training(), PlatformDone(NotStarted("500 by the watchdog")))
    assert type(failure.value) is InvocationFailed


async def test_a_function_that_stops_reporting_has_failed() -> None:
    with pytest.raises(InvocationFailed, match="nothing was heard of it"):
        await followed(Activation("m1", "accepted"), PlatformDone())
    with pytest.raises(InvocationFailed, match="nothing was heard of it"):
        await followed(Activation("m1", "accepted"), PlatformDone(), training())


async def test_a_reported_failure_is_the_runs_failure() -> None:
    with pytest.raises(InvocationFailed, match="it broke") as failure:
        await followed(Activation("a1", "accepted"), failed(retryable=False))
    assert (failure.value.retryable, failure.value.activation) == (False, "a1")


async def test_of_an_earlier_attempt_only_success_counts() -> None:
    late = await followed(training(1), failed(1), training(2), done(1), attempt=2)
    assert late.outcomes == ["running", "succeeded"]


class Scripted:
    """A platform whose calls fail or succeed as a list says."""

    name = "fake"
    concurrency = 1

    def __init__(self, script: Iterable[InvocationFailed | None]) -> None:
        self._script = list(script)
        self.calls = 0

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:  # noqa: ARG002
        failure = self._script[self.calls]
        self.calls += 1
        if failure is not None:
            raise failure
        yield Activation(f"run-{self.calls}", "succeeded")


async def invoked(platform: Scripted, **options: object) -> Records:
    retry_policy = RetryPolicy(retry_first_s=1e-6)
    invoker = Invoker(platform, **{"retry_policy": retry_policy, **options})  # type: ignore[arg-type]
    records = Records()
    async with asyncio.timeout(5):
        await invoker.invoke(TASK, 1, asyncio.Queue(), records.record)
    return records


async def test_a_platform_that_refuses_is_asked_again_within_the_same_attempt() -> None:
    platform = Scripted([NotStarted("429"), NotStarted("429"), None])
    records = await invoked(platform)
    assert records.outcomes == ["refused", "refused", "running", "succeeded"]
    assert platform.calls == 3


async def test_a_platform_that_refuses_for_too_long_costs_an_attempt() -> None:
    platform = Scripted([NotStarted("away")] * 99)
    with pytest.raises(NotStarted, match="away"):
        await invoked(platform, retry_policy=RetryPolicy(retry_first_s=1e-4, retry_most_s=1e-4, refused_s=1e-3))
    assert platform.calls > 5


async def test_a_function_that_vanished_is_created_again_once() -> None:
    created: list[str] = []

    async def restore(client: str) -> Change:
        created.append(client)
        return "created"

    records = await invoked(Scripted([FunctionGone("404"), None]), restore=restore)
    assert records.outcomes == ["restored", "running", "succeeded"]
    assert records.reasons[0] == "404; created again"
    with pytest.raises(FunctionGone):
        await invoked(Scripted([FunctionGone("404")] * 3), restore=restore)
    assert created == ["client-00"] * 2


@pytest.mark.parametrize(("change", "outcomes"), [("created", ["restored", "running", "succeeded"]), ("same", None)])
async def test_a_function_that_never_reports_is_created_again_if_it_was_changed(
    change: Change, outcomes: list[str] | None
) -> None:
    async def restore(_: str) -> Change:
        return change

    platform = Scripted([NoReport("nothing was heard of it"), None])
    if outcomes is None:
        with pytest.raises(NoReport):
            await invoked(platform, restore=restore)
    else:
        assert (await invoked(platform, restore=restore)).outcomes == outcomes


async def test_without_a_way_to_create_it_a_missing_function_is_a_failure() -> None:
    with pytest.raises(FunctionGone, match="404"):
        await invoked(Scripted([FunctionGone("404")]))


async def test_an_attempt_fails_if_the_platform_can_t_create_the_function_now() -> None:
    async def restore(client: str) -> Change:
        raise PlatformFailed("fake", f"create {client}", "no room")

    with pytest.raises(InvocationFailed, match="no room") as failure:
        await invoked(Scripted([FunctionGone("404")]), restore=restore)
    assert failure.value.retryable
