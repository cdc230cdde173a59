"""The orders of an instance, in its event loop: each is worked on once, and answered as often as it is given."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

import structlog

from broker import topics
from broker.errors import BrokerError, Denied
from broker.messages import codec
from broker.messages.errors import DecodeError, MessageError
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.round import RoundTask, TaskName
from broker.messages.update import read_header
from broker.support.tasks import task_group
from client_fn.cache import keep
from client_fn.errors import ClientError, NoRoute, TopicTaken, WrongClient
from client_fn.exchange import Blobs, Exchange
from client_fn.function import Warm, handle
from client_fn.lease import Lease
from client_fn.runtime.connection import LazyConnection
from client_fn.runtime.failure import failed

ANSWERS_KEPT: Final = 4
"""Tasks of a client come one after the other; a copy of an older one finds its update with the broker."""

REPORT_S: Final = 5.0
"""A report that takes longer is given up: the platform gets it too, and the update is what counts."""

log = structlog.get_logger(__name__)

_Key = tuple[str, str, int]


class ExecutionResult(NamedTuple):
    """The last report of a request; of one that brought its blobs, also what the function wrote, by topic."""

    report: Report
    written: dict[str, bytes]


class TaskExecutor:
    """What an instance has done and is doing.

    Args:
        client: whose tasks are taken; empty: anybody's.
        connection: to the broker.
        group: where the work is done.
        clock: seconds since the epoch.
    """

    def __init__(
        self, client: str, connection: LazyConnection, group: asyncio.TaskGroup, clock: Callable[[], float]
    ) -> None:
        self._client, self._connection, self._group, self._clock = client, connection, group, clock
        self._warm = Warm()
        self._cold = True
        self._under_way: dict[_Key, asyncio.Task[ExecutionResult]] = {}
        self._done: dict[_Key, ExecutionResult] = {}

    async def answer(
        self, request: InvocationRequest, activation: str, given: Mapping[str, bytes] | None
    ) -> ExecutionResult:
        """Do what a request asks for, unless it is done or being done; a failure is a report too.

        Args:
            request: what to do.
            activation: the platform's id of the run.
            given: what the broker would have, by topic; None: the broker is asked.
        """
        key = (request.task.id, request.task.token, request.attempt)
        if key in self._done:
            return self._done[key]
        if key not in self._under_way:
            work = self._work(key, request, activation, given)
            self._under_way[key] = self._group.create_task(work, name=request.task.id)
        # Who gives up waiting does so for himself.
        return await asyncio.shield(self._under_way[key])

    async def refuse(self, task: TaskName, report: Report) -> None:
        """Report that an order of that task can't be read, so that its round does not wait for it."""
        await self._tell(task, report)

    def stop(self) -> None:
        """Give up whatever is under way."""
        for task in self._under_way.values():
            task.cancel()

    async def _work(
        self, key: _Key, request: InvocationRequest, activation: str, given: Mapping[str, bytes] | None
    ) -> ExecutionResult:
        task = request.task
        try:
            with structlog.contextvars.bound_contextvars(job=task.job, round=task.round, client=task.client_id):
                if given is None:
                    answer, told = await self._over_broker(request, activation)
                else:
                    answer, told = await self._in_memory(request, activation, given)
        finally:
            del self._under_way[key]
        if told and answer.report.state == "done":
            keep(self._done, key, answer, most=ANSWERS_KEPT)
        return answer

    async def _over_broker(self, request: InvocationRequest, activation: str) -> tuple[ExecutionResult, bool]:
        """The answer, and whether the broker has it too."""
        cold = self._first()
        begun = Report(request.task.id, "training", cold=cold, attempt=request.attempt, activation=activation)
        async with task_group() as telling:

            def tell() -> None:
                telling.create_task(self._tell(request.task, begun), name=f"report {begun.id}")

            # Its end waits for that report, so that the last one comes last.
            report = await self._outcome(request, activation, self._connection.held(), tell, cold=cold)
        return ExecutionResult(report, {}), await self._tell(request.task, report)

    async def _in_memory(
        self, request: InvocationRequest, activation: str, given: Mapping[str, bytes]
    ) -> tuple[ExecutionResult, bool]:
        blobs = Blobs(given)
        report = await self._outcome(request, activation, contextlib.nullcontext(blobs), _nobody, cold=self._first())
        return ExecutionResult(report, blobs.written if report.state == "done" else {}), True

    def _first(self) -> bool:
        cold, self._cold = self._cold, False
        return cold

    async def _outcome(
        self,
        request: InvocationRequest,
        activation: str,
        opened: AbstractAsyncContextManager[Exchange],
        on_training: Callable[[], None],
        *,
        cold: bool,
    ) -> Report:
        task, attempt = request.task, request.attempt
        try:
            async with Lease(task, self._clock).held():
                self._check_client(task)
                async with opened as exchange:
                    if not await _is_there(exchange, request):
                        await handle(
                            task, exchange, self._warm, attempt=attempt, on_training=on_training, clock=self._clock
                        )
        except (ClientError, BrokerError, MessageError) as exc:
            return failed(request, exc, activation)
        except (Exception, SystemExit) as exc:
            # The outermost loop of the function: the user's model may raise anything, and even exit.
            log.exception("the function failed")
            return failed(request, exc, activation)
        return Report(task.id, "done", cold=cold, attempt=attempt, activation=activation)

    def _check_client(self, task: RoundTask) -> None:
        if self._client and task.client_id != self._client:
            raise WrongClient(task.client_id, self._client)

    async def _tell(self, task: RoundTask | TaskName, report: Report) -> bool:
        """Retain a report where the bridge looks for it; a task does not fail of that."""
        try:
            async with asyncio.timeout(REPORT_S), self._connection.held() as bus:
                await bus.put(topics.report(task.client_type, task.client_id), codec.encode(report))
        except (BrokerError, NoRoute, TimeoutError) as exc:
            log.warning("a report did not reach the broker", state=report.state, error=str(exc))
            return False
        return True


def _nobody() -> None:
    """Whoever sent the blobs waits for the response and hears of nothing before it."""


async def _is_there(exchange: Exchange, request: InvocationRequest) -> bool:
    """Whether another instance has done it already.

    Raises:
        TopicTaken: something else is there, so an update would not be kept.
    """
    task = request.task
    topic = topics.update(task.job, task.round, task.client_id, request.attempt)
    try:
        found = await exchange.get(topic)
    except Denied as exc:
        log.debug("nobody knows whether it is done already", error=str(exc))
        return False
    if found is None:
        return False
    if _token_of(found.payload) != task.token:
        raise TopicTaken(topic)
    log.info("done already", topic=topic)
    return True


def _token_of(update: bytes) -> str:
    try:
        return read_header(update).token
    except DecodeError:
        return ""
