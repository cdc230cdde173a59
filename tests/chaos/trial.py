"""One trial: what a fault gets, and what is found."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import broker
from broker.base import Broker
from broker.errors import BrokerError
from broker.messages.progress import FINAL_EVENTS, Progress
from fedkeeper.errors import NoSuchJob
from fedkeeper.sdk import Client
from tests.chaos.system import System

WITHIN_S: Final = 480.0
"""Within this time after a fault a job must have ended, also on a loaded machine. Seconds."""


@dataclass
class Result:
    """What a trial has found.

    Attributes:
        fault: the fault's name.
        broker: the broker's name.
        seed: the trial's seed.
        problems: what was not as it must be.
        notes: what was done, and when: seconds since the trial's start.
        recovered_s: seconds from the end of the fault to the next completed round or the job's end; None: unknown.
        lost: number of updates that an invited client did not contribute.
        twice: number of clients that were counted twice in a round.
        has_same_digest: whether the model is that of the undisturbed job; None: there is no model to compare.
        has_all_events: whether each event is there, once, and in order.
        end: the job's last event, as the user sees it.
        took_s: duration of the trial.
    """

    fault: str
    broker: str
    seed: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recovered_s: float | None = None
    lost: int = 0
    twice: int = 0
    has_same_digest: bool | None = None
    has_all_events: bool = True
    end: str = ""
    took_s: float = 0.0

    @property
    def repeat(self) -> str:
        """The command that repeats the trial alone."""
        return f'make chaos N=1 BROKER={self.broker} SEED={self.seed} FAULT="{self.fault}"'


class Trial:
    """What a fault gets: the system, its random numbers, and the job that runs.

    Args:
        running: the system.
        result: what is found.
        job: the id of the job that the fault hits.

    Attributes:
        system: see above.
        result: see above.
        job: see above.
        rng: the trial's random numbers.
        events: the job's events so far, and when each came, on the monotonic clock.
        last_error: what whoever watches the job was told last, when that was no event.
    """

    def __init__(self, running: System, result: Result, job: str) -> None:
        self.system = running
        self.result = result
        self.job = job
        self.rng = random.Random(f"{result.fault} {result.broker} {result.seed}")  # noqa: S311 (to be repeated)
        self.events: list[tuple[float, Progress]] = []
        self.last_error: Exception | None = None
        self._changed = asyncio.Event()
        self._started_s = time.monotonic()

    def note(self, text: str) -> None:
        """Write down what is done, with the time."""
        self.result.notes.append(f"{time.monotonic() - self._started_s:6.1f} {text}")

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Broker]:
        """Open the harness's own connection, which no fault hits."""
        async with broker.connect(self.system.broker.url, name="chaos") as bus:
            yield bus

    async def pause(self, least_s: float, most_s: float) -> None:
        """Wait for a random time.

        Args:
            least_s: at least this long, in seconds.
            most_s: at most this long.
        """
        await asyncio.sleep(self.rng.uniform(least_s, most_s))

    async def wait_for_events(self, count: int) -> None:
        """Wait until the job has had so many events, or has ended."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.events) < count and not self.has_ended:
                self._changed.clear()
                await self._changed.wait()

    @property
    def has_ended(self) -> bool:
        """Whether the job's end is announced."""
        return bool(self.events) and isinstance(self.events[-1][1].event, FINAL_EVENTS)

    async def wait_until_told(self, *, is_gone: bool) -> None:
        """Wait until whoever watches the job knows its end.

        Args:
            is_gone: the broker has forgotten the job; then this is what they must know.
        """
        while not (isinstance(self.last_error, NoSuchJob) if is_gone else self.has_ended):
            self._changed.clear()
            await self._changed.wait()

    async def follow(self) -> None:
        """Watch the job until its end. After an error of the broker, watch it again, as a person would."""
        seen: set[str] = set()
        while not self.has_ended:
            try:
                async with self.connect() as bus, aclosing(Client(bus).watch(self.job)) as events:
                    async for event in events:
                        if event.id not in seen:
                            seen.add(event.id)
                            self.events.append((time.monotonic(), event))
                            self._changed.set()
            except (BrokerError, NoSuchJob, OSError) as exc:
                self.last_error = exc
                self._changed.set()
            await asyncio.sleep(0.2)
