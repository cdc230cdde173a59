"""One attempt, followed by the events of its platform and the reports of its function."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

import msgspec
import pytest

from bridges import Activation, Invoker, RetryPolicy
from bridges.attempt import MISSED_REPORTS, SHORTEST_S, AttemptState, Patience, follow_attempt
from bridges.errors import (
    BridgeError,
    FunctionGone,
    InvocationFailed,
    NoReport,
    NotStarted,
    OutcomeUnknown,
    PlatformDenied,
    PlatformFailed,
    SecretMissing,
    SiteFault,
)
from bridges.reports import PlatformDone, RunEvent, RunEvents
from broker.errors import CorruptPayload
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


async def followed(*events: RunEvent, attempt: int = 1, look: Callable[[], Awaitable[bool]] | None = None) -> Records:
    queue = RunEvents(look)
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
    with pytest.raises(InvocationFailed, match="it ended while it trained: 500 by the watchdog") as failure:
        await followed(training(), PlatformDone(NotStarted("500 by the watchdog")))
    assert type(failure.value) is InvocationFailed


async def test_what_a_refusal_means_for_a_function_that_trains_is_said_instead_of_its_reason() -> None:
    refusal = NotStarted("cold start: it does not listen yet", if_begun="its process ended")
    with pytest.raises(InvocationFailed, match=r"^its process ended$"):
        await followed(training(), PlatformDone(refusal))


async def test_a_call_that_hangs_is_given_up_if_its_function_does_not_report_in_time() -> None:
    with pytest.raises(InvocationFailed, match="no report that it trains; the call is given up") as failure:
        await followed(Activation("c1", "called"))
    assert (type(failure.value), failure.value.activation) == (InvocationFailed, "c1")


async def test_a_call_that_hangs_is_followed_by_its_functions_reports() -> None:
    records = await followed(Activation("c1", "called"), training(), done())
    assert records.outcomes == ["running", "succeeded"]
    assert [activation for activation, _ in records.runs] == ["c1", "c1"]
    with pytest.raises(InvocationFailed, match=r"nothing was heard of it for 0 s$"):
        await followed(Activation("c1", "called"), training())


@pytest.mark.parametrize(
    ("every_s", "run_s", "patience"),
    [
        (10.0, 600.0, Patience(10.0, MISSED_REPORTS)),
        (0.0, 600.0, Patience(600.0)),
        (200.0, 600.0, Patience(600.0)),
        (1e-9, 600.0, Patience(SHORTEST_S, MISSED_REPORTS)),
        (-1.0, 600.0, Patience(600.0)),
        (float("inf"), 600.0, Patience(600.0)),
        (10.0, 5.0, Patience(5.0)),
    ],
)
async def test_a_function_that_says_how_often_it_reports_is_missed_sooner(
    every_s: float, run_s: float, patience: Patience
) -> None:
    state = AttemptState(1, RetryPolicy(run_s=run_s), Records().record)
    await state.apply(PlatformDone())
    await state.apply(msgspec.structs.replace(training(), every_s=every_s))
    assert state.patience == patience


async def test_only_periods_in_which_the_broker_answers_count_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage of the broker a function has its whole time again to be heard."""
    monkeypatch.setattr("bridges.attempt.SHORTEST_S", 0.0)
    monkeypatch.setattr("bridges.attempt.MISSED_REPORTS", 2)
    answers = iter([True, False, True, True])

    async def look() -> bool:
        return next(answers)

    beating = msgspec.structs.replace(training(), every_s=1e-9)
    queue, records = RunEvents(look), Records()
    for event in (PlatformDone(), beating):
        queue.put_nowait(event)
    with pytest.raises(InvocationFailed, match="nothing was heard of it"):
        await follow_attempt(1, queue, RetryPolicy(run_s=600.0), records.record)
    assert list(answers) == []


async def test_a_report_that_did_not_arrive_is_looked_for_before_a_run_is_given_up() -> None:
    async def found() -> bool:
        queue.put_nowait(done())
        return True

    queue, records = RunEvents(found), Records()
    for event in (PlatformDone(), training()):
        queue.put_nowait(event)
    await follow_attempt(1, queue, IMPATIENT, records.record)
    assert records.outcomes == ["running", "succeeded"]


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


async def test_an_earlier_attempt_that_began_late_is_followed_while_it_trains() -> None:
    """A cold start longer than `start_s`: the function is busy with the run that was given up."""
    for failure in (NotStarted("429"), InvocationFailed("500"), OutcomeUnknown("504")):
        records = await followed(training(1), Activation("c2", "called"), PlatformDone(failure), done(1), attempt=2)
        assert records.outcomes == ["running", "succeeded"]
    with pytest.raises(NotStarted, match="429"):
        await followed(training(1), PlatformDone(NotStarted("429")), failed(1), attempt=2)
    with pytest.raises(InvocationFailed, match="401"):
        await followed(training(1), PlatformDone(InvocationFailed("401", retryable=False)), done(1), attempt=2)


class Scripted:
    """A platform whose calls fail or succeed as a list says."""

    name = "fake"
    concurrency = 1

    def __init__(self, script: Iterable[BridgeError | None]) -> None:
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
        await invoker.invoke(TASK, 1, RunEvents(), records.record)
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


async def test_a_site_whose_settings_let_nothing_run_costs_no_attempt_however_long() -> None:
    platform = Scripted([*[SiteFault("no GPU")] * 99, None])
    policy = RetryPolicy(retry_first_s=1e-4, retry_most_s=1e-4, refused_s=1e-3)
    records = await invoked(platform, retry_policy=policy)
    assert records.outcomes == [*["refused"] * 99, "running", "succeeded"]


async def test_a_function_that_says_that_nothing_could_run_costs_no_attempt() -> None:
    nothing_ran = msgspec.structs.replace(failed(retryable=False), nothing_ran=True)
    with pytest.raises(SiteFault, match="it broke"):
        await followed(Activation("a1", "called"), nothing_ran)
    with pytest.raises(InvocationFailed) as lost:
        await followed(training(), nothing_ran)
    assert (type(lost.value), lost.value.retryable) == (InvocationFailed, True)


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


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (PlatformFailed("fake", "create client-00", "no room"), True),
        (PlatformDenied("fake", "http://here", "check the password"), False),
        (SecretMissing("key", "put it there"), False),
        (CorruptPayload("fl.packages.x", "this chunk is missing"), False),
        (InvocationFailed("its options are wrong", retryable=False), False),
    ],
)
async def test_an_attempt_fails_if_the_function_can_t_be_created_again(error: Exception, *, retryable: bool) -> None:
    async def restore(_: str) -> Change:
        raise error

    with pytest.raises(InvocationFailed, match=r"404, and it can't be created again: ") as failure:
        await invoked(Scripted([FunctionGone("404")]), restore=restore)
    assert str(error) in failure.value.reason
    assert failure.value.retryable is retryable


async def test_refused_credentials_fail_the_client_and_do_not_end_the_bridge() -> None:
    with pytest.raises(InvocationFailed, match="refuses the credentials: check the password") as failure:
        await invoked(Scripted([PlatformDenied("fake", "http://here", "check the password")]))
    assert not failure.value.retryable


class Calls(Scripted):
    """A platform whose call goes on after its function has reported the end."""

    def __init__(self) -> None:
        super().__init__([])
        self.events = RunEvents()
        self.answer = asyncio.Event()
        self.is_hung_up = False

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:  # noqa: ARG002
        yield Activation("c1", "called")
        for report in (training(), done()):
            self.events.put_nowait(report)
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.is_hung_up = True
            raise
        yield Activation("c1", "succeeded")


@pytest.mark.parametrize("answers", [True, False])
async def test_a_call_that_has_succeeded_is_not_hung_up_on_before_its_answer(
    monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    monkeypatch.setattr("bridges.attempt.ANSWER_S", 5.0 if answers else 0.0)
    platform, records = Calls(), Records()

    async def record(outcome: Outcome, *, activation: str = "", cold: bool | None = None, reason: str = "") -> None:
        await records.record(outcome, activation=activation, cold=cold, reason=reason)
        if outcome == "succeeded" and answers:
            platform.answer.set()

    await Invoker(platform).invoke(TASK, 1, platform.events, record)
    assert records.outcomes == ["running", "succeeded"]
    assert platform.is_hung_up is not answers
