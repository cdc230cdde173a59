"""A worker process: it gets one request per line and writes one report per line."""

import asyncio
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from bridges.errors import InvocationFailed
from broker.messages import codec
from broker.messages.data_report import DataAnswer, DataCheck, DataReport
from broker.messages.errors import DecodeError
from broker.messages.invocation import BEAT_S, InvocationRequest, Report, WorkerReady
from broker.messages.round import RoundTask
from broker.support import logs, texts
from broker.support.forks import Copy
from broker.support.processes import Group, describe_exit
from broker.support.tasks import task_group

READY_S: Final = 300.0
"""How long a worker may take until it is ready. On a small board torch alone takes a minute. Seconds."""

GOODBYE_S: Final = 0.5
"""How long a worker may take to end before it is killed. While it imports torch, it can't end by itself. Seconds."""

SILENT_BEATS: Final = 12
"""A worker is silent when so many signs of life in a row have not come. A pause of this process counts as one."""

ANSWER_S: Final = 5.0
"""What a worker may need beside the look at a client's data. Seconds."""

LINE_BYTES: Final = 1 << 20
"""Length of the longest report."""

_TAIL_BYTES: Final = 4096
_LINE_CHARS: Final = 300


Request = tuple[str, int]
"""A task's id and the attempt's number: the worker may still be busy with an earlier attempt at the task."""


class Worker:
    """A worker process.

    Args:
        name: name of the worker.
        process: the process, which has just been started.
        on_ready: called when the worker can take tasks.

    Attributes:
        name: name of the worker; the ids of its activations begin with it.
        process: the process; it may have ended.
        reports: the queue of each request's reports.
        given_up: what to call when the worker has done with a request that nobody waits for any more.
        answers: what will be the answer to each look at a client's data, by the request's id.
        count: number of tasks that the worker got so far.
        taken: number of tasks that it has been taken for and that it has not trained.
        is_ready: whether it could take tasks, once.
        is_retired: whether it gets no more tasks, and is ended when it works for none.
        ready: what it has said of itself when it became ready.
        site_fault: why the site's settings let no task run; empty: they do, or the worker has said nothing.
    """

    def __init__(self, name: str, process: Group | Copy, on_ready: Callable[[], None]) -> None:
        self.name = name
        self.process = process
        self.reports: dict[Request, asyncio.Queue[Report]] = {}
        self.given_up: dict[Request, Callable[[], None]] = {}
        self.answers: dict[str, asyncio.Future[DataReport]] = {}
        self.count = 0
        self.taken = 0
        self.is_ready = False
        self.is_retired = False
        self.ready = WorkerReady()
        self.site_fault = ""
        self._on_ready = on_ready
        self._fault = ""
        self._log_tail = b""
        self._is_heard = False

    def send(self, task: RoundTask, attempt: int) -> asyncio.Queue[Report]:
        """Send a task to the worker.

        Args:
            task: the task to run.
            attempt: number of the attempt, from 1.

        Returns:
            The queue of the request's reports.

        Raises:
            InvocationFailed: the process has no input.
        """
        if self.process.stdin is None:
            raise InvocationFailed(f"{self.name} has no input")
        self.count += 1
        queue = self.reports[task.id, attempt] = asyncio.Queue()
        self.process.stdin.write(codec.encode(InvocationRequest(task, attempt)) + b"\n")
        return queue

    async def check(self, check: DataCheck) -> DataReport:
        """Let the worker look at a client's data, also while it trains.

        Raises:
            InvocationFailed: the process has no input, it ended, or it does not answer in time.
        """
        if self.process.stdin is None:
            raise InvocationFailed(f"{self.name} has no input")
        answer: asyncio.Future[DataReport] = asyncio.get_running_loop().create_future()
        self.answers[check.id] = answer
        self.process.stdin.write(codec.encode(check) + b"\n")
        try:
            async with asyncio.timeout(check.limit_s + ANSWER_S):
                return await answer
        except TimeoutError:
            raise InvocationFailed(f"{self.name} did not answer within {check.limit_s + ANSWER_S:g} s") from None
        finally:
            del self.answers[check.id]

    def fail(self, reason: str) -> None:
        """Fail everything that the worker was asked for.

        Args:
            reason: why, for people.
        """
        for (task_id, attempt), queue in self.reports.items():
            queue.put_nowait(Report(task_id, "failed", reason=reason, attempt=attempt))
        for answer in self.answers.values():
            if not answer.done():
                answer.set_exception(InvocationFailed(reason))

    async def run(self, ready_s: float = READY_S) -> str:
        """Follow the worker to its end, and kill what it has left running. If cancelled, end the worker.

        Args:
            ready_s: how long it may take until it is ready, in seconds.

        Returns:
            How it ended, for people: `ended with code 3`.
        """
        too_slow = asyncio.get_running_loop().call_later(ready_s, self._end_start, ready_s)
        async with task_group() as group:
            readers = [
                group.create_task(self._read_reports(), name=f"reports of {self.name}"),
                group.create_task(self._copy_log(), name=f"log of {self.name}"),
            ]
            watch = group.create_task(self._watch(), name=f"watch of {self.name}")
            try:
                code = await self.process.wait()
            finally:
                too_slow.cancel()
                watch.cancel()
                await self._end(readers)
        return self._fault or describe_exit(code)

    def last_log_line(self) -> str:
        """Return the last line of the worker's log that says something; empty if there is none."""
        lines = self._log_tail.decode(errors="replace").splitlines()
        # The last line of an exception group is a ruler.
        said = [line.strip() for line in lines if any(char.isalnum() for char in line)]
        return said[-1][:_LINE_CHARS] if said else ""

    async def _read_reports(self) -> None:
        """Put each report into the queue of its request, until the worker's output ends."""
        if self.process.stdout is None:
            return
        try:
            async for line in self.process.stdout:
                self._take_line(line)
        except (DecodeError, ValueError):  # a ValueError: the line is too long
            self._kill("wrote something that is no report")
            return
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self.process.wait()
        except TimeoutError:
            self._kill("closed its output")

    def _take_line(self, line: bytes) -> None:
        self._is_heard = True
        if not self.is_ready:
            if (fault := codec.decode_partial(_Fault, line)) is not None:
                self.site_fault = texts.shortened(fault.reason) or "the site's settings let no task run"
                return
            self.ready = codec.decode(WorkerReady, line)
            self.is_ready = True
            self._on_ready()
            return
        if codec.decode_partial(_SignOfLife, line) is not None:
            return
        if (said := codec.decode_partial(DataAnswer, line)) is not None:
            answer = self.answers.get(said.id)
            if answer is not None and not answer.done():
                answer.set_result(said.report)
            return
        report = codec.decode(Report, line)
        request = self._request_of(report)
        if request in self.reports:
            self.reports[request].put_nowait(report)
        elif report.state != "training" and (on_end := self.given_up.pop(request, None)) is not None:
            on_end()

    def _request_of(self, report: Report) -> Request:
        """Return the request that a report is about. Workers of the last release do not name the attempt."""
        same_task = (request for request in reversed(self.reports) if request[0] == report.id and not report.attempt)
        return next(same_task, (report.id, report.attempt))

    async def _watch(self) -> None:
        """Kill the worker when it is silent: frozen, or blocked for ever. Its tasks are tried again then."""
        silent = 0
        while silent < SILENT_BEATS:
            await asyncio.sleep(BEAT_S)
            silent = 0 if self._is_heard or not self.is_ready else silent + 1
            self._is_heard = False
        self._kill(f"was silent for {SILENT_BEATS * BEAT_S:g} s")

    async def _copy_log(self) -> None:
        """Copy the worker's standard error to our log, and keep its end."""
        if self.process.stderr is None:
            return
        while chunk := await self.process.stderr.read(LINE_BYTES):
            self._log_tail = (self._log_tail + chunk)[-_TAIL_BYTES:]
            logs.copy(chunk)

    def _end_start(self, ready_s: float) -> None:
        if not self.is_ready:
            self._kill(f"was not ready within {ready_s:g} s")

    def _kill(self, fault: str) -> None:
        self._fault = self._fault or fault
        self.process.kill()

    async def _end(self, readers: list[asyncio.Task[None]]) -> None:
        """Close the worker's input, which ends it, and kill it if it takes too long. Then read what it has written."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self.process.wait()
        except TimeoutError:
            pass
        finally:
            self.process.kill()
        await self.process.wait()
        # A process that has left the group may hold the pipes for ever.
        await asyncio.wait(readers, timeout=GOODBYE_S)
        self.process.close()


class _Fault(msgspec.Struct, frozen=True):
    """A `WorkerFault` that is not ready: its state is there."""

    state: Literal["fault"]
    reason: str = ""


class _SignOfLife(msgspec.Struct, frozen=True):
    """A `WorkerReady` that is no report: its state is there."""

    state: Literal["ready"]
