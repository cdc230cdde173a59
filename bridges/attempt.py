"""One attempt at a task: triggers the function, and follows it by what its platform and it itself say."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from bridges.errors import (
    FunctionGone,
    InvocationFailed,
    NoReport,
    NotStarted,
    OutcomeUnknown,
    PlatformFailed,
    SecretMissing,
)
from bridges.platform import Activation, Platform
from bridges.rate_limit import RateLimiter
from bridges.reports import Ended, Heard
from broker.messages.function import Change
from broker.messages.invocation import Outcome, Report
from broker.messages.round import RoundTask
from broker.support import backoff
from broker.support.tasks import task_group

log = structlog.get_logger(__name__)

Note = Callable[[Outcome, Activation, str], Awaitable[None]]
"""Writes down an outcome, the run it is about, and the reason."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait for what. Seconds.

    Attributes:
        retry_first_s: the longest delay after a first failure; it doubles with each further one.
        retry_most_s: no delay is longer.
        refused_s: a platform that is away, or refuses, for so long has cost the task an attempt.
        start_s: how long after the platform's last word the function must have reported that it trains.
        run_s: how long after that it must be done.
    """

    retry_first_s: float = 1.0
    retry_most_s: float = 30.0
    refused_s: float = 120.0
    start_s: float = 120.0
    run_s: float = 600.0

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """How long to wait after so many failures: capped, exponential, full jitter."""
        return backoff.delay_s(failures - 1, rng.uniform, first_s=self.retry_first_s, most_s=self.retry_most_s)


async def _nothing_to_restore(client: str) -> Change | None:  # noqa: ARG001 (the interface's argument)
    return None


@dataclass
class Invoker:
    """How tasks are run on one platform.

    Attributes:
        platform: who runs them.
        patience: see there.
        pace: keeps below the platform's rate limit.
        restore: makes a client's function what it should be; returns what that took, None if nobody knows.
        rng: for the jitter.
    """

    platform: Platform
    patience: RetryPolicy = RetryPolicy()
    pace: RateLimiter = field(default_factory=RateLimiter)
    restore: Callable[[str], Awaitable[Change | None]] = _nothing_to_restore
    rng: random.Random = field(default_factory=random.Random)

    async def invoke(self, task: RoundTask, attempt: int, heard: asyncio.Queue[Heard], note: Note) -> None:
        """Have the function run to its end; asks again while the platform does not even start it.

        Args:
            task: what it shall do.
            attempt: which one this is, from 1.
            heard: where its reports come in.
            note: see there.

        Raises:
            InvocationFailed: this attempt failed.
        """
        refused_s, refusals, restored = 0.0, 0, False
        while True:
            await self.pace.turn()
            try:
                await self._once(task, attempt, heard, note)
            except NotStarted as exc:
                refusals += 1
                delay_s = self.patience.delay_s(refusals, self.rng)
                refused_s += delay_s
                if refused_s > self.patience.refused_s:
                    raise
                await self._refused(exc, delay_s, note)
            except (FunctionGone, NoReport) as exc:
                if restored or not await self._restored(task, exc, note):
                    raise
                restored = True
            else:
                return

    async def _once(self, task: RoundTask, attempt: int, heard: asyncio.Queue[Heard], note: Note) -> None:
        async with task_group() as group:
            telling = group.create_task(_tell(self.platform, task, attempt, heard), name=f"invoke {task.id}")
            await follow(attempt, heard, self.patience, note)
            telling.cancel()

    async def _refused(self, refusal: NotStarted, delay_s: float, note: Note) -> None:
        log.warning("nothing started", reason=refusal.reason, again_in_s=round(delay_s, 3))
        await note("refused", Activation(refusal.activation, "accepted"), refusal.reason)
        await asyncio.sleep(delay_s)

    async def _restored(self, task: RoundTask, gone: FunctionGone | NoReport, note: Note) -> bool:
        """Whether the function was missing, or not what it should be, and is there now."""
        log.warning("the function seems to be gone", reason=gone.reason)
        try:
            change = await self.restore(task.client_id)
        except (PlatformFailed, SecretMissing, NoReport) as exc:
            # Another attempt tries it anew: the platform may be busy, or a person is about to help.
            raise InvocationFailed(f"{gone.reason}, and it can't be created again: {exc}") from exc
        if change is None or (change == "same" and isinstance(gone, NoReport)):
            return False
        await note("restored", Activation("", "accepted"), f"{gone.reason}; created again")
        return True


async def _tell(platform: Platform, task: RoundTask, attempt: int, heard: asyncio.Queue[Heard]) -> None:
    """Pass on what the platform knows of a run, until it knows no more."""
    failure: InvocationFailed | None = None
    try:
        async with aclosing(platform.invoke(task, attempt)) as activations:
            async for activation in activations:
                heard.put_nowait(activation)
    except InvocationFailed as exc:
        failure = exc
    heard.put_nowait(Ended(failure))


async def follow(attempt: int, heard: asyncio.Queue[Heard], patience: RetryPolicy, note: Note) -> None:
    """Follow a run to its end; the first to know of it, platform or function, is believed.

    Raises:
        InvocationFailed: it failed, or nothing was heard of it for too long.
    """
    run = _Run(attempt, patience, note)
    while not run.done:
        try:
            async with asyncio.timeout(run.patience_s):
                said = await heard.get()
        except TimeoutError:
            raise run.silence() from None
        await run.take(said)


@dataclass
class _Run:
    """What is known of a run.

    Attributes:
        done: the update is with the broker.
        patience_s: how long to wait for the next word; None: the platform will tell.
        id: the platform's name for it.
    """

    attempt: int
    patience: RetryPolicy
    note: Note
    done: bool = False
    patience_s: float | None = None
    id: str = ""
    _noted: set[str] = field(default_factory=set)

    async def take(self, said: Heard) -> None:
        match said:
            case Activation():
                await self._moved(said)
            case Report(state="done"):
                # Of whatever attempt: the update counts.
                await self._moved(Activation(said.activation, "succeeded", said.cold))
            case Report() if said.attempt != self.attempt:
                pass
            case Report(state="failed"):
                raise InvocationFailed(said.reason, retryable=said.retryable, activation=self.id or said.activation)
            case Report(state="training"):
                await self._moved(Activation(said.activation, "running", said.cold))
            case Ended(failure):
                self._ended(failure)
            case _:
                pass

    async def _moved(self, activation: Activation) -> None:
        self.id = self.id or activation.id
        self.done = activation.state == "succeeded"
        if self.done and "running" not in self._noted:
            # Whatever has succeeded has run, even if nobody said so in time.
            await self._moved(Activation(self.id, "running", activation.cold))
            self.done = True
        if activation.state in self._noted:
            return
        self._noted.add(activation.state)
        cold = None if self.done else activation.cold
        await self.note(activation.state, Activation(self.id, activation.state, cold), "")
        if self.patience_s is not None:
            self.patience_s = self.patience.run_s

    def silence(self) -> InvocationFailed:
        """What it means that nothing was heard for so long."""
        kind = InvocationFailed if "running" in self._noted else NoReport
        return kind(f"nothing was heard of it for {self.patience_s:g} s", activation=self.id)

    def _ended(self, failure: InvocationFailed | None) -> None:
        trains = "running" in self._noted
        if isinstance(failure, NotStarted) and trains:
            # The platform found no process to call, because this run had ended it.
            raise InvocationFailed(f"it died while it trained: {failure.reason}", activation=self.id) from failure
        if failure is not None and not (isinstance(failure, OutcomeUnknown) and trains):
            raise failure
        self.patience_s = self.patience.run_s if trains else self.patience.start_s
