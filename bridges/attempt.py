"""One attempt at a task: triggers the function, and follows the run until it has succeeded or failed.

The events of a run come from two sources: the platform (`Activation`) and the function itself (`Report`).
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec

from bridges.errors import (
    BridgeError,
    FunctionGone,
    InvocationFailed,
    NoReport,
    NotStarted,
    OutcomeUnknown,
    SiteFault,
    as_failed_invocation,
)
from bridges.platform import Activation, Platform
from bridges.problems import Problems
from bridges.rate_limit import RateLimiter
from bridges.reports import PlatformDone, RunEvent, RunEvents
from broker.errors import CorruptPayload
from broker.messages.function import Change
from broker.messages.invocation import Outcome, Report
from broker.messages.round import RoundTask
from broker.support import backoff, loggers
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

ANSWER_S: Final = 2.0
"""How long a call may go on after its function has reported the end. To hang up before the platform's own answer would
count as the function's failure there. Seconds."""

MISSED_REPORTS: Final = 6
"""A run that trains is silent when so many of the reports that its function announced have not come."""

SHORTEST_S: Final = 1.0
"""Shortest interval between two reports that a function can announce. Seconds."""


class RecordOutcome(Protocol):
    """A function that records an outcome of an attempt."""

    async def __call__(
        self, outcome: Outcome, *, activation: str = "", cold: bool | None = None, reason: str = ""
    ) -> None:
        """Record an outcome.

        Args:
            outcome: the outcome.
            activation: the platform's id of the run; empty: not known, or nothing ran.
            cold: whether the run was a cold start; None: not known.
            reason: why, for people.
        """


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Delays before retries, and the timeouts of a run. All in seconds.

    Attributes:
        retry_first_s: the longest delay after the first failure; it doubles with each further failure.
        retry_most_s: upper bound of the delay.
        refused_s: if a platform refuses a task for longer than this, the attempt has failed; not if the site's settings
            are at fault.
        start_s: seconds from the platform's last event of a run until the function must report that it trains; a cold
            start is part of this time.
        run_s: longest silence of a run that trains, for a function that does not say how often it reports. A run that
            is heard of may take longer: only the round's deadline ends it.
    """

    retry_first_s: float = 1.0
    retry_most_s: float = 30.0
    refused_s: float = 120.0
    start_s: float = 120.0
    run_s: float = 600.0

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """The delay before the next try: exponential, capped, with full jitter.

        Args:
            failures: number of failures so far, at least 1.
            rng: source of the jitter.
        """
        return backoff.delay_s(failures - 1, rng.uniform, first_s=self.retry_first_s, most_s=self.retry_most_s)


@dataclass
class Invoker:
    """Invokes the functions of one platform.

    Attributes:
        platform: runs the tasks.
        retry_policy: delays and timeouts.
        rate_limiter: keeps invocations below the platform's rate limit.
        restore: makes a client's function what it should be, and returns what was changed; None if the function was
            never created through this bridge. Without it, a missing function is a failure.
        rng: source of the jitter.
        timer: seconds on a clock that never jumps.
        problems: is told when the platform can't be used.
    """

    platform: Platform
    retry_policy: RetryPolicy = RetryPolicy()
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)
    restore: Callable[[str], Awaitable[Change | None]] | None = None
    rng: random.Random = field(default_factory=random.Random)
    timer: Callable[[], float] = time.monotonic
    problems: Problems = field(default_factory=Problems)

    async def invoke(self, task: RoundTask, attempt: int, events: RunEvents, record: RecordOutcome) -> None:
        """Run the function until it has succeeded. While the platform refuses to start it, ask again.

        Args:
            task: the task to run; `lasts_s` is what is left now. Each request to the function says what is left then.
            attempt: number of this attempt, from 1.
            events: the function's reports arrive here; the platform's events are added.
            record: records each outcome.

        Raises:
            InvocationFailed: this attempt failed.
        """
        refused_s, refusals, is_restored, began_s = 0.0, 0, False, self.timer()
        while True:
            await self.rate_limiter.acquire()
            try:
                async with task_group() as group:
                    request = _with_time_left(task, self.timer() - began_s)
                    forwarding = _forward_activations(self.platform, request, attempt, events, self.problems)
                    forwarder = group.create_task(forwarding, name=f"invoke {task.id}")
                    if await follow_attempt(attempt, events, self.retry_policy, record):
                        await asyncio.wait([forwarder], timeout=ANSWER_S)
                    forwarder.cancel()
            except NotStarted as exc:
                refusals += 1
                delay_s = self.retry_policy.delay_s(refusals, self.rng)
                refused_s += delay_s
                if refused_s > self.retry_policy.refused_s and not isinstance(exc, SiteFault):
                    raise
                log.warning("the platform did not start it", reason=exc.reason, again_in_s=round(delay_s, 3))
                await record("refused", activation=exc.activation, reason=exc.reason)
                await asyncio.sleep(delay_s)
            except (FunctionGone, NoReport) as exc:
                if is_restored or not await self._restore_function(task, exc, record):
                    raise
                is_restored = True
            else:
                return

    async def _restore_function(self, task: RoundTask, error: FunctionGone | NoReport, record: RecordOutcome) -> bool:
        """Create the client's function again; True if it was missing, or different from what it should be."""
        log.warning("the function seems to be gone", reason=error.reason)
        if self.restore is None:
            return False
        try:
            change = await self.restore(task.client_id)
        except BridgeError as exc:
            raise as_failed_invocation(exc, f"{error.reason}, and it can't be created again: ") from exc
        except CorruptPayload as exc:
            reason = f"{error.reason}, and it can't be created again: {exc}; deploy it again"
            raise InvocationFailed(reason, retryable=False) from exc
        if change is None or (change == "same" and isinstance(error, NoReport)):
            return False
        await record("restored", reason=f"{error.reason}; created again")
        return True


def _with_time_left(task: RoundTask, passed_s: float) -> RoundTask:
    return task if task.lasts_s is None else msgspec.structs.replace(task, lasts_s=task.lasts_s - passed_s)


async def follow_attempt(attempt: int, events: RunEvents, retry_policy: RetryPolicy, record: RecordOutcome) -> bool:
    """Follow a run until it has succeeded. The first report of the end counts, from the platform or the function.

    Args:
        attempt: number of the attempt, from 1.
        events: the run's events, from the platform and from the function.
        retry_policy: the timeouts of a run.
        record: records each state that the run reaches, once.

    Returns:
        Whether the platform's own answer is still to come.

    Raises:
        InvocationFailed: the run failed, or it was silent for too long.
    """
    state, missed = AttemptState(attempt, retry_policy, record), 0
    while not state.is_done:
        patience = state.patience
        try:
            async with asyncio.timeout(None if patience is None else patience.period_s):
                event = await events.get()
        except TimeoutError:
            missed = missed + 1 if await events.look() else 0
            if patience is not None and missed >= patience.periods and events.empty():
                raise state.silence(patience) from None
        else:
            missed = 0
            await state.apply(event)
    return state.is_called and not state.is_platform_done


class Patience(NamedTuple):
    """How long a run may be silent. It is too long after some periods in a row without any event.

    Periods in which the broker did not answer do not count, nor does a pause of this process count for more than one.

    Attributes:
        period_s: length of a period, in seconds.
        periods: how many of them.
    """

    period_s: float
    periods: int = 1


_REACHED: Final[dict[str, tuple[Outcome, ...]]] = {
    "accepted": ("accepted",),
    "running": ("running",),
    "succeeded": ("running", "succeeded"),
}
"""The states to record, by the state that a run is in."""


@dataclass
class AttemptState:
    """The state of a run, built from its events.

    Attributes:
        attempt: number of the attempt, from 1.
        retry_policy: the timeouts of a run.
        record: records each state that the run reaches, once.
        is_done: the update is with the broker.
        is_called: the run is one call, and the platform tells nothing before its answer.
        is_platform_done: the platform sends no more events of the run.
        id: the platform's id of the run; empty until it is known.
    """

    attempt: int
    retry_policy: RetryPolicy
    record: RecordOutcome
    is_done: bool = False
    is_called: bool = False
    is_platform_done: bool = False
    id: str = ""
    _every_s: float = 0.0
    # Number of the attempt whose run trains; 0: none is known to. An earlier attempt's may have begun late.
    _followed: int = 0
    _kept_failure: InvocationFailed | None = None
    _recorded: set[str] = field(default_factory=set)

    @property
    def is_training(self) -> bool:
        """Whether a run trains: this attempt's, or one of an earlier attempt that was given up too soon."""
        return self._followed > 0

    @property
    def patience(self) -> Patience | None:
        """How long the next event may take; None while the platform itself follows the run."""
        if not (self.is_called or self.is_platform_done):
            return None
        if not self.is_training:
            return Patience(self.retry_policy.start_s)
        return _patience(self._every_s, self.retry_policy.run_s)

    def silence(self, patience: Patience) -> InvocationFailed:
        """Return the failure of a run that was silent for too long."""
        reason = f"nothing was heard of it for {patience.period_s * patience.periods:g} s"
        if self.is_training:
            return InvocationFailed(reason, activation=self.id)
        if self.is_called:
            # A function that does not exist would have been refused at once, so to create it again is of no use.
            return InvocationFailed(f"{reason}: no report that it trains; the call is given up", activation=self.id)
        return NoReport(reason, activation=self.id)

    async def apply(self, event: RunEvent) -> None:
        """Update the state with an event.

        Raises:
            InvocationFailed: the event says that the run failed.
        """
        match event:
            case Activation(state="called"):
                self.id, self.is_called = event.id, True
            case Activation():
                await self._advance(event)
            case Report():
                await self._apply_report(event)
            case PlatformDone(failure):
                if failure is not None:
                    self._raise_unless_running(failure)
                self.is_platform_done = True

    async def _apply_report(self, report: Report) -> None:
        match report:
            case Report(state="done"):
                # An earlier attempt's update counts as well.
                await self._advance(Activation(report.activation, "succeeded", report.cold))
            case Report(state="training") if self._followed <= report.attempt <= self.attempt:
                self._followed, self._every_s = report.attempt, report.every_s
                await self._advance(Activation(report.activation, "running", report.cold))
            case Report(state="failed", nothing_ran=True) if report.attempt == self.attempt and not self.is_training:
                raise SiteFault(report.reason, activation=self.id or report.activation)
            case Report(state="failed") if report.attempt == self.attempt:
                # A device that is lost during the training may be there for the next attempt.
                is_retryable = report.retryable or report.nothing_ran
                raise InvocationFailed(report.reason, retryable=is_retryable, activation=self.id or report.activation)
            case Report(state="failed") if report.attempt == self._followed:
                self._followed = 0
                if self._kept_failure is not None:
                    raise self._kept_failure
            case Report():
                pass

    async def _advance(self, activation: Activation) -> None:
        """Record the states that the run has reached, each of them once."""
        self.id = self.id or activation.id
        if activation.state == "running":
            self._followed = self._followed or self.attempt
        self.is_done = activation.state == "succeeded"
        # A run that has succeeded has been running, even if no event said so in time.
        for state in _REACHED[activation.state]:
            if state not in self._recorded:
                self._recorded.add(state)
                cold = None if state == "succeeded" else activation.cold
                await self.record(state, activation=self.id, cold=cold)

    def _raise_unless_running(self, failure: InvocationFailed) -> None:
        """Raise the platform's failure, unless a run trains and only its outcome is not known to the platform."""
        if self._followed == self.attempt and isinstance(failure, NotStarted):
            # The platform found no process to call, because this run had ended it.
            reason = failure.if_begun or f"it ended while it trained: {failure.reason}"
            raise InvocationFailed(reason, activation=self.id) from failure
        if not self.is_training or not failure.retryable:
            raise failure
        if self._followed < self.attempt:
            # The function is busy with an earlier attempt at this task, whose update counts as well.
            self._kept_failure = failure
        elif not isinstance(failure, OutcomeUnknown):
            raise failure


def _patience(every_s: float, run_s: float) -> Patience:
    """Return how long a run that trains may be silent, if its function reports every `every_s` seconds (0: unknown)."""
    period_s = max(every_s, SHORTEST_S)
    if every_s > 0 and period_s * MISSED_REPORTS < run_s:
        return Patience(period_s, MISSED_REPORTS)
    return Patience(run_s)


async def _forward_activations(
    platform: Platform, task: RoundTask, attempt: int, events: RunEvents, problems: Problems
) -> None:
    """Invoke the function, and add the platform's events of the run to the queue."""
    failure: InvocationFailed | None = None
    try:
        async with aclosing(platform.invoke(task, attempt)) as activations:
            async for activation in activations:
                problems.clear("platform")
                events.put_nowait(activation)
    except InvocationFailed as exc:
        if isinstance(exc, NotStarted) and not isinstance(exc, SiteFault):
            problems.note("platform", exc.reason)
        failure = exc
    except BridgeError as exc:
        problems.note("platform", str(exc))
        # Refused credentials, for example. They fail this client; others may train, and the bridge goes on.
        failure = as_failed_invocation(exc)
    events.put_nowait(PlatformDone(failure))
