"""Runs trials and judges them: an undisturbed job, then the same job with a fault, then what must be true of both."""

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
from tests.chaos.brokers import OURS
from tests.chaos.oracle import Usage
from tests.chaos.row import Fault
from tests.chaos.system import System
from tests.chaos.trial import WITHIN_S, Result, Trial

TIDY_S: Final = 90.0
"""Within this time after a job's end nothing may be left of it: the server looks again after 5, 20 and 60 seconds."""

FORGET_S: Final = 80.0
"""Within this time the broker forgets what killed parts have left there."""

QUIET_S: Final = 1.5
"""After so long without another event in the log, there is none."""

TOLD_S: Final = 60.0
"""Within this time after a job's end, whoever watches it is told."""

GONE_S: Final = 10.0
"""A job whose record is missing for so long is gone."""

HARMLESS: Final = ("torchinductor_",)
"""Beginnings of the names of temporary folders that libraries keep for their next start."""


@dataclass(frozen=True)
class Undisturbed:
    """A job that nothing disturbs, and what it leaves.

    Attributes:
        digest: digest of its model.
        events: number of its events.
        left: number of messages that it leaves at the broker, by family.
        usage: what the system uses afterwards.
    """

    digest: str
    events: int
    left: Counter[str]
    usage: Usage


async def run(
    trials: Sequence[tuple[Fault, int]],
    broker_name: str,
    folder: Path,
    on_result: Callable[[Result], None] = lambda _: None,
    *,
    sees_consumers: bool = True,
) -> list[Result]:
    """Run trials with the same setup in one system, one after the other, until one of them fails.

    Args:
        trials: what is done, and the seed that decides the moment and everything else that is drawn.
        broker_name: one of `brokers.NAMES`.
        folder: folder of the trials; it does not exist yet. It is removed if all is well.
        on_result: is called with each result, once it can't change any more.
        sees_consumers: wait at the end until the broker has forgotten the consumers of killed parts: a minute.
    """
    results: list[Result] = []
    try:
        async with system.running(folder, broker_name, trials[0][0].setup) as running:
            usual = None
            for number, (fault, seed) in enumerate(trials):
                if results:
                    on_result(results[-1])
                results.append(Result(fault.name, broker_name, seed))
                trial = Trial(running, results[-1], f"job-{number}")
                usual = usual or await _run_undisturbed(trial, fault)
                sees_now = sees_consumers and number == len(trials) - 1
                await _Judge(trial, fault, usual, sees_consumers=sees_now).run()
                if results[-1].problems:
                    break
            may_leave_files = any(fault.kills for fault, _ in trials)
            results[-1].problems += await running.end()
            results[-1].problems += await _left_running(running, may_leave_files=may_leave_files)
    except Exception as exc:  # noqa: BLE001 (whatever goes wrong is a failed trial, and the next one must go on)
        results = results or [Result(trials[0][0].name, broker_name, trials[0][1])]
        results[-1].problems.append(_described(exc))
    _write_notes(results, folder)
    on_result(results[-1])
    return results


def _described(error: Exception) -> str:
    """Return an error as a sentence; of a group, the first one."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _write_notes(results: Sequence[Result], folder: Path) -> None:
    """Write what happened beside the logs, or remove the folder if all was well."""
    if not any(result.problems for result in results):
        shutil.rmtree(folder, ignore_errors=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for each in results for line in (each.repeat, *each.problems, *each.notes, "")]
    (folder / "trial.txt").write_text("\n".join(lines) + "\n")


async def _run_undisturbed(trial: Trial, fault: Fault) -> Undisturbed:
    async with trial.connect() as bus:
        sdk = Client(bus)
        job = await sdk.submit(trial.system.job("undisturbed", **fault.job), timeout_s=WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            events = [event async for event in sdk.watch(job)]
        record = await _finished(sdk, job)
    assert record.phase == "completed", record.reason
    assert record.model is not None
    trial.note(f"the undisturbed job is done: {record.model.sha256[:12]}")
    left, usage = await _left(trial.system, job), await _usage(trial.system)
    return Undisturbed(record.model.sha256, len(events), left, usage)


class _Judge:
    """Does a fault and looks at what follows. The methods stand in the order of the trial.

    Args:
        trial: the trial.
        fault: what is done.
        usual: what an undisturbed job does.
        sees_consumers: wait until the broker has forgotten the consumers of killed parts, which takes it a minute.
    """

    def __init__(self, trial: Trial, fault: Fault, usual: Undisturbed, *, sees_consumers: bool) -> None:
        self._usual = usual
        self._trial = trial
        self._fault = fault
        self._result = trial.result
        self._sees_consumers = sees_consumers

    async def run(self) -> None:
        """Run the trial."""
        trial, started_s = self._trial, time.monotonic()
        await self._fault.prepare(trial)
        record = await self._run_disturbed()
        self._judge_end(record)
        if record is None or record.phase != "completed":
            await self._check_next_job()
        await self._check_leftovers()
        await self._check_log()
        self._result.problems += trial.system.take_deaths()
        self._result.took_s = time.monotonic() - started_s

    async def _run_disturbed(self) -> JobRecord | None:
        """Submit the job, do the fault at a random moment, and return the record of the ended job; None: it is gone."""
        trial, fault = self._trial, self._fault
        least, most = fault.moment
        moment = int(trial.rng.uniform(least, most) * self._usual.events)
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
            await self._check_watcher(record)
            self._result.recovered_s = _recovered_s(trial.events, done_s)
            follower.cancel()
        return record

    async def _wait_for_end(self) -> JobRecord | None:
        """Ask again and again, each time anew, as somebody would who types `fedkeeper jobs`."""
        trial, until_s, gone_since_s = self._trial, time.monotonic() + WITHIN_S, 0.0
        while time.monotonic() < until_s:
            try:
                async with trial.connect() as bus:
                    record = await Client(bus).job(trial.job)
            except NoSuchJob:
                gone_since_s = gone_since_s or time.monotonic()
                if time.monotonic() > gone_since_s + GONE_S:
                    trial.note("the job is gone")
                    return None
            except (BrokerError, OSError) as exc:
                trial.note(f"no record: {exc}")
            else:
                gone_since_s = 0.0
                if record.is_finished:
                    trial.note(f"the job has ended: {record.phase} {record.reason}")
                    return record
            await asyncio.sleep(0.5)
        raise AssertionError(f"the job did not end within {WITHIN_S:g} s")

    async def _check_watcher(self, record: JobRecord | None) -> None:
        """Whoever watches the job must be told how it ends, or that the broker has forgotten it."""
        trial = self._trial
        try:
            async with asyncio.timeout(TOLD_S):
                await trial.wait_until_told(is_gone=record is None)
        except TimeoutError:
            self._result.problems.append(f"whoever watches the job is not told its end; last: {trial.last_error}")

    def _judge_end(self, record: JobRecord | None) -> None:
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
            result.has_same_digest = record.model.sha256 == self._usual.digest
            if not result.has_same_digest and not fault.fails_round:
                result.problems.append(f"another digest: {record.model.sha256[:12]}, not {self._usual.digest[:12]}")

    async def _check_next_job(self) -> None:
        """The system must still work: the next job gets the undisturbed one's model."""
        trial, name = self._trial, f"{self._trial.job}-next"
        async with asyncio.timeout(WITHIN_S), trial.connect() as bus:
            sdk = Client(bus)
            try:
                await sdk.submit(trial.system.job(name, **self._fault.job), timeout_s=60.0)
            except (NotAnswered, JobRefused) as exc:
                self._result.problems.append(f"the next job: {exc}")
                return
            record = await _finished(sdk, name)
        if record.phase != "completed" or record.model is None or record.model.sha256 != self._usual.digest:
            self._result.problems.append(f"the next job {record.phase} with another digest: {record.reason}")
        trial.note(f"the next job is over: {record.phase}")

    async def _check_log(self) -> None:
        """Read the job's events as a plain and as a durable subscriber, and judge them."""
        trial, result = self._trial, self._result
        async with trial.connect() as bus:
            plain = await _read(bus, trial.job)
            durable = await _read(bus, trial.job, durable=f"{OURS}{trial.job}")
        problems = [*oracle.repeated(plain), *oracle.repeated(durable), *oracle.differences(plain, durable)]
        is_reported = not self._fault.stops_reports
        problems += oracle.out_of_order(plain, is_reported=is_reported)
        problems += oracle.missing(plain, is_reported=is_reported)
        result.has_all_events = not problems
        doubles = oracle.counted_twice(plain)
        result.twice, result.lost = len(doubles), oracle.lost_updates(plain)
        result.problems += doubles
        if self._fault.may_forget(result.broker) == "nothing":
            result.problems += problems
        trial.note(f"{len(plain)} events in the log; {len(problems)} problems: {problems[:5]}")
        if plain and isinstance(plain[-1].event, JobFailed):
            result.end += f": {plain[-1].event.reason}"
        (trial.system.folder / f"events-{trial.job}.txt").write_text(
            "\n".join(f"{e.time_s:.3f} {e.id}" for e in plain) + "\n"
        )

    async def _check_leftovers(self) -> None:
        """What a job leaves must be gone soon after its end, and the use of broker and memory as before."""

        async def left() -> list[str]:
            return oracle.leftovers(await _left(self._trial.system, self._trial.job), self._usual.left)

        async def grown() -> list[str]:
            found = oracle.growth(self._usual.usage, await _usage(self._trial.system))
            # The broker forgets the consumers of parts that were killed after a minute.
            return found if self._sees_consumers else [problem for problem in found if "consumers" not in problem]

        if problems := await _last_problems(left, TIDY_S):
            self._result.problems += problems
            self._trial.note(f"left: {sorted(await _topics_left(self._trial.system, self._trial.job))}")
        self._result.problems += await _last_problems(grown, FORGET_S)


async def _left_running(running: System, *, may_leave_files: bool) -> list[str]:
    """Return what is left after an orderly end: no process and no temporary file may be."""

    async def look() -> list[str]:
        return [command for pid in parts.marked(running.mark) if (command := parts.command_line(pid))]

    left = await _last_problems(look, TIDY_S)
    files = [path.name for path in running.temporary.iterdir() if not path.name.startswith(HARMLESS)]
    return [
        *(f"still running: {command[:120]}" for command in left),
        *(f"left in the temporary folder: {name}" for name in sorted(files) if not may_leave_files),
    ]


async def _left(running: System, job: str) -> Counter[str]:
    """Count a job's messages at the broker, by family; and all tasks."""
    found: Counter[str] = Counter()
    for topic, count in (await _topics_left(running, job)).items():
        found[topic.split(".")[1]] += count
    return found


async def _topics_left(running: System, job: str) -> Counter[str]:
    """Count a job's messages at the broker, by topic; and all tasks."""
    found: Counter[str] = Counter()
    for topic, count in (await running.broker.topics()).items():
        root, family, *levels = topic.split(".")
        if root == "fl" and levels and (levels[0] == job or family == "tasks"):
            found[topic] += count
    return found


async def _usage(running: System) -> Usage:
    """Of several parts of a kind, the largest counts: only one of them may have had work so far."""
    memory: dict[str, float] = {}
    for name, part in running.parts.items():
        kind = name.partition("-")[0]
        if part.is_running:
            memory[kind] = max(memory.get(kind, 0.0), part.memory_mb())
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
