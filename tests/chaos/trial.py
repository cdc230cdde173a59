"""One trial: an undisturbed job, then the same job with one fault, then what must be true of both."""

import asyncio
import contextlib
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import broker
from broker import topics
from broker.base import Broker
from broker.errors import BrokerError
from broker.messages import progress
from broker.messages.errors import DecodeError
from broker.messages.job_record import JobRecord
from broker.messages.progress import FINAL_EVENTS, JobFailed, Progress, RoundCompleted
from fedkeeper.errors import JobRefused, NoSuchJob, NotAnswered
from fedkeeper.sdk import Client
from tests.chaos import oracle, parts, system
from tests.chaos.oracle import Usage
from tests.chaos.row import Fault
from tests.chaos.system import System

WITHIN_S: Final = 240.0
"""Within this time after a fault a job must have ended, also on a loaded machine. Seconds."""

TIDY_S: Final = 30.0
"""Within this time after a job's end nothing may be left of it."""

FORGET_S: Final = 80.0
"""Within this time the broker forgets what killed parts have left there."""

QUIET_S: Final = 1.5
"""After so long without another event in the log, there is none."""

HARMLESS: Final = ("torchinductor_",)
"""Beginnings of the names of temporary folders that libraries keep for their next start."""


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
        return f"make chaos N=1 BROKER={self.broker} SEED={self.seed} FAULT='{self.fault}'"


class Trial:
    """What a fault gets: the system, its random numbers, and the job that runs.

    Args:
        running: the system.
        rng: the trial's random numbers.
        note: writes down what is done.

    Attributes:
        system: see above.
        rng: see above.
        note: see above.
        job: the id of the job that the fault hits.
        events: the job's events so far.
    """

    def __init__(self, running: System, rng: random.Random, note: Callable[[str], None]) -> None:
        self.system = running
        self.rng = rng
        self.note = note
        self.job = ""
        self.events: list[tuple[float, Progress]] = []
        self._changed = asyncio.Event()

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

    async def follow(self) -> None:
        """Collect the job's events as they come, until cancelled. Starts over whenever the broker is away."""
        seen: set[str] = set()
        while True:
            with contextlib.suppress(BrokerError, OSError):
                async with self.connect() as bus, aclosing(Client(bus).watch(self.job)) as events:
                    async for event in events:
                        if event.id not in seen:
                            seen.add(event.id)
                            self.events.append((time.monotonic(), event))
                            self._changed.set()
            await asyncio.sleep(0.2)


@dataclass(frozen=True)
class _Undisturbed:
    """What a job leaves that nothing disturbs."""

    digest: str
    events: int
    left: Counter[str]
    usage: Usage


async def run(fault: Fault, broker_name: str, seed: int, folder: Path, *, patient: bool = True) -> Result:
    """Run one trial in a system of its own.

    Args:
        fault: what is done.
        broker_name: one of `brokers.NAMES`.
        seed: decides the moment and everything else that is drawn.
        folder: folder of the trial; it does not exist yet.
        patient: wait until the broker has forgotten the consumers of killed parts; it takes a minute.
    """
    started_s = time.monotonic()
    result = Result(fault.name, broker_name, seed)

    def note(text: str) -> None:
        result.notes.append(f"{time.monotonic() - started_s:6.1f} {text}")

    rng = random.Random(f"{fault.name} {broker_name} {seed}")  # noqa: S311 (to be repeated)
    try:
        async with system.running(folder, broker_name, fault.setup) as running:
            note("the system is up")
            await _Judge(Trial(running, rng, note), fault, result, patient=patient).run()
    except Exception as exc:  # noqa: BLE001 (whatever goes wrong is a failed trial, and the next one must go on)
        result.problems.append(f"{type(exc).__name__}: {exc}")
    result.took_s = time.monotonic() - started_s
    _write_notes(result, folder)
    return result


def _write_notes(result: Result, folder: Path) -> None:
    """Write what happened beside the logs, or remove the folder if all was well."""
    if not result.problems:
        shutil.rmtree(folder, ignore_errors=True)
        return
    lines = [result.repeat, "", *result.problems, "", *result.notes]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.txt").write_text("\n".join(lines) + "\n")


class _Judge:
    """Runs the jobs of a trial and looks at what they leave. The methods stand in the order of the trial."""

    def __init__(self, trial: Trial, fault: Fault, result: Result, *, patient: bool) -> None:
        self._trial = trial
        self._fault = fault
        self._result = result
        self._patient = patient

    async def run(self) -> None:
        """Run the trial."""
        trial, fault = self._trial, self._fault
        usual = await self._run_undisturbed()
        await fault.prepare(trial)
        record = await self._run_disturbed(usual)
        self._judge_end(record, usual)
        if record is None or record.phase != "completed":
            await self._check_next_job(usual)
        await self._check_leftovers(usual)
        await self._check_log()
        self._result.problems += await trial.system.end()
        self._check_processes()

    async def _run_undisturbed(self) -> _Undisturbed:
        trial = self._trial
        async with trial.connect() as bus:
            sdk = Client(bus)
            job = await sdk.submit(trial.system.job("undisturbed", **self._fault.job), timeout_s=WITHIN_S)
            async with asyncio.timeout(WITHIN_S):
                events = [event async for event in sdk.watch(job)]
            record = await _finished(sdk, job)
        assert record.phase == "completed", record.reason
        assert record.model is not None
        trial.note(f"the undisturbed job is done: {record.model.sha256[:12]}")
        return _Undisturbed(record.model.sha256, len(events), await self._left(job), await self._usage())

    async def _run_disturbed(self, usual: _Undisturbed) -> JobRecord | None:
        """Submit the job, do the fault at a random moment, and return the record of the ended job; None: it is gone."""
        trial, fault = self._trial, self._fault
        least, most = fault.moment
        moment = int(trial.rng.uniform(least, most) * usual.events)
        trial.job = "disturbed"
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(trial.follow(), name="follow the job")
            async with trial.connect() as bus:
                with contextlib.suppress(NotAnswered):
                    await Client(bus).submit(trial.system.job(trial.job, **fault.job), timeout_s=60.0)
            await trial.wait_for_events(moment)
            await trial.pause(0.0, 0.1)
            trial.note(f"after {len(trial.events)} events: {fault.name}")
            await fault.do(trial)
            done_s = time.monotonic()
            trial.note(f"that is over, after {len(trial.events)} events")
            record = await self._wait_for_end()
            self._result.recovered_s = _recovered_s(trial.events, done_s)
            follower.cancel()
        return record

    async def _wait_for_end(self) -> JobRecord | None:
        trial, until_s, gone = self._trial, time.monotonic() + WITHIN_S, 0
        while time.monotonic() < until_s:
            with contextlib.suppress(BrokerError, OSError):
                async with trial.connect() as bus:
                    while time.monotonic() < until_s:
                        try:
                            record = await Client(bus).job(trial.job)
                        except NoSuchJob:
                            gone += 1
                            if gone > 20:
                                return None
                        else:
                            gone = 0
                            if record.is_finished:
                                trial.note(f"the job has ended: {record.phase} {record.reason}")
                                return record
                        await asyncio.sleep(0.5)
            await asyncio.sleep(0.5)
        raise AssertionError(f"the job did not end within {WITHIN_S:g} s")

    def _judge_end(self, record: JobRecord | None, usual: _Undisturbed) -> None:
        fault, result = self._fault, self._result
        if record is None:
            result.end = "no such job"
            if fault.may_forget(result.broker) != "job":
                result.problems.append("the job is gone")
            return
        result.end = f"job.{record.phase}"
        if record.phase not in fault.phases:
            result.problems.append(f"the job {record.phase}: {record.reason}")
        if record.phase == "completed":
            assert record.model is not None
            result.has_same_digest = record.model.sha256 == usual.digest
            if not result.has_same_digest:
                result.problems.append(f"another digest: {record.model.sha256[:12]}, not {usual.digest[:12]}")

    async def _check_next_job(self, usual: _Undisturbed) -> None:
        """The system must still work: the next job gets the undisturbed one's model."""
        trial = self._trial
        async with asyncio.timeout(WITHIN_S), trial.connect() as bus:
            sdk = Client(bus)
            try:
                await sdk.submit(trial.system.job("next", **self._fault.job), timeout_s=60.0)
            except (NotAnswered, JobRefused) as exc:
                self._result.problems.append(f"the next job: {exc}")
                return
            record = await _finished(sdk, "next")
        if record.phase != "completed" or record.model is None or record.model.sha256 != usual.digest:
            self._result.problems.append(f"the next job {record.phase} with another digest: {record.reason}")
        trial.note(f"the next job is over: {record.phase}")

    async def _check_log(self) -> None:
        """Read the job's events as a plain and as a durable subscriber, and judge them."""
        trial, result = self._trial, self._result
        async with trial.connect() as bus:
            plain = await _read(bus, trial.job)
            durable = await _read(bus, trial.job, durable=f"chaos-{trial.system.mark[:8]}")
        problems = [*oracle.repeated(plain), *oracle.repeated(durable), *oracle.differences(plain, durable)]
        problems += oracle.out_of_order(plain) + oracle.missing(plain)
        result.has_all_events = not problems
        doubles = oracle.counted_twice(plain)
        result.twice, result.lost = len(doubles), oracle.lost_updates(plain)
        result.problems += doubles
        if self._fault.may_forget(result.broker) == "nothing":
            result.problems += problems
        trial.note(f"{len(plain)} events in the log; {len(problems)} problems: {problems[:5]}")
        if plain and isinstance(plain[-1].event, JobFailed):
            result.end += f": {plain[-1].event.reason}"
        (trial.system.folder / "events.txt").write_text("\n".join(f"{e.time_s:.3f} {e.id}" for e in plain) + "\n")

    async def _check_leftovers(self, usual: _Undisturbed) -> None:
        """What a job leaves must be gone soon after its end, and the use of broker and memory as before."""

        async def left() -> list[str]:
            return oracle.leftovers(await self._left(self._trial.job), usual.left)

        async def grown() -> list[str]:
            found = oracle.growth(usual.usage, await self._usage())
            # The broker forgets the consumers of parts that were killed after a minute.
            return found if self._patient else [problem for problem in found if "consumers" not in problem]

        self._result.problems += await _last_problems(left, TIDY_S)
        self._result.problems += await _last_problems(grown, FORGET_S)

    def _check_processes(self) -> None:
        """After an orderly end, no process and no temporary file may be left."""
        running = self._trial.system
        left = [command for pid in parts.marked(running.mark) if (command := parts.command_line(pid))]
        self._result.problems += [f"still running: {command[:120]}" for command in left]
        files = [path.name for path in running.temporary.iterdir() if not path.name.startswith(HARMLESS)]
        if not self._fault.kills:
            self._result.problems += [f"left in the temporary folder: {name}" for name in sorted(files)]

    async def _left(self, job: str) -> Counter[str]:
        """Count a job's messages at the broker, by family."""
        found: Counter[str] = Counter()
        for topic, count in (await self._trial.system.broker.topics()).items():
            root, family, *levels = topic.split(".")
            if root == "fl" and levels and (levels[0] == job or family == "tasks"):
                found[family] += count
        return found

    async def _usage(self) -> Usage:
        running = self._trial.system
        memory = {name: part.memory_mb() for name, part in running.parts.items() if part.is_running}
        return Usage(await running.broker.consumers(), memory)


async def _last_problems(look: Callable[[], Awaitable[list[str]]], within_s: float) -> list[str]:
    """Look again and again until there is no problem any more; return those that stay."""
    until_s = time.monotonic() + within_s
    while (problems := await look()) and time.monotonic() < until_s:  # noqa: ASYNC110 (no event to wait for)
        await asyncio.sleep(1.0)
    return problems


async def _finished(sdk: Client, job: str) -> JobRecord:
    """Wait until a job has ended and is cleaned up, and return its record."""
    async with asyncio.timeout(WITHIN_S):
        while not (record := await sdk.job(job)).is_finished:  # noqa: ASYNC110 (no event to wait for)
            await asyncio.sleep(0.2)
    return record


async def _read(bus: Broker, job: str, durable: str | None = None) -> list[Progress]:
    """Read a job's events from the log, repeated ones too."""
    events: list[Progress] = []
    async with bus.subscribe(topics.job_progress(job), durable=durable, start="first", prefetch=64) as deliveries:
        with contextlib.suppress(TimeoutError):
            while True:
                delivery = await asyncio.wait_for(anext(deliveries), QUIET_S)
                with contextlib.suppress(DecodeError):
                    events.append(progress.decode(await delivery.read()))
                await delivery.ack()
    return events


def _recovered_s(events: Sequence[tuple[float, Progress]], since_s: float) -> float | None:
    """Return how long after a fault the next round was complete, or the job over."""
    kinds = (RoundCompleted, *FINAL_EVENTS)
    return next((at_s - since_s for at_s, each in events if at_s >= since_s and isinstance(each.event, kinds)), None)
