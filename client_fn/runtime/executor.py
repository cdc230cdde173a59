"""Executes an instance's requests in its event loop: each one once, however many copies arrive."""

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
from broker.support import loggers
from broker.support.tasks import task_group
from client_fn.cache import keep
from client_fn.errors import ClientError, NoRoute, TopicTaken, WrongClient
from client_fn.exchange import Exchange, InMemoryExchange
from client_fn.function import WarmState, handle
from client_fn.lease import Lease
from client_fn.runtime.connection import LazyConnection
from client_fn.runtime.failure import failure_report

RESULTS_KEPT: Final = 4
"""A client's tasks come one after the other. A late copy of an older task finds its update at the broker."""

REPORT_S: Final = 5.0
"""Time limit for publishing a report. The platform gets the report too, and only the update counts."""

REPORT_EVERY_S: Final = 10.0
"""Seconds between two reports that a training goes on: the bridge does not give up a function that it hears of."""

log = loggers.get_logger(__name__)

_Key = tuple[str, str, int]


class ExecutionResult(NamedTuple):
    """The result of a request.

    Attributes:
        report: the final report.
        outputs: payloads that the function wrote, by topic; only for a successful request that brought its inputs.
    """

    report: Report
    outputs: dict[str, bytes]


class TaskExecutor:
    """Executes requests and remembers the last results.

    Args:
        client: id of the client whose tasks are accepted. Empty: tasks of every client.
        connection: to the broker.
        group: runs the executions.
        warm: what is kept from one task to the next.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        client: str,
        connection: LazyConnection,
        group: asyncio.TaskGroup,
        warm: WarmState,
        clock: Callable[[], float],
    ) -> None:
        self._client, self._connection, self._group, self._clock = client, connection, group, clock
        self._warm = warm
        self._is_cold = True
        self._running: dict[_Key, asyncio.Task[ExecutionResult]] = {}
        self._results: dict[_Key, ExecutionResult] = {}

    async def execute(
        self, request: InvocationRequest, activation: str, inputs: Mapping[str, bytes] | None
    ) -> ExecutionResult:
        """Return the result of a request, and train only if no copy of the request is running or done.

        A failure is returned as a report and not raised.

        Args:
            request: the task and the attempt.
            activation: the platform's id of the run.
            inputs: payloads by topic that replace the broker. None: use the broker.
        """
        key = (request.task.id, request.task.token, request.attempt)
        if key in self._results:
            return self._results[key]
        if key not in self._running:
            execution = self._execute_once(key, request, activation, inputs)
            self._running[key] = self._group.create_task(execution, name=request.task.id)
        # Shielded: cancelling one waiter must not cancel the shared task.
        return await asyncio.shield(self._running[key])

    async def publish_report(self, task: RoundTask | TaskName, report: Report) -> bool:
        """Retain a report where the bridge looks for it. Failures are logged and do not fail the task.

        Args:
            task: names the platform and the client.
            report: the report.

        Returns:
            Whether the broker has the report.
        """
        try:
            async with asyncio.timeout(REPORT_S), self._connection.acquire() as bus:
                await bus.put(topics.report(task.client_type, task.client_id), codec.encode(report))
        except (BrokerError, NoRoute, TimeoutError) as exc:
            log.warning("a report did not reach the broker", state=report.state, error=str(exc))
            return False
        return True

    def stop(self) -> None:
        """Cancel all running executions."""
        for task in self._running.values():
            task.cancel()

    async def _execute_once(
        self, key: _Key, request: InvocationRequest, activation: str, inputs: Mapping[str, bytes] | None
    ) -> ExecutionResult:
        task = request.task
        cold, self._is_cold = self._is_cold, False
        try:
            with structlog.contextvars.bound_contextvars(job=task.job, round=task.round, client=task.client_id):
                if inputs is None:
                    report = await self._train_over_broker(request, activation, cold=cold)
                    result, is_reported = ExecutionResult(report, {}), await self.publish_report(task, report)
                else:
                    exchange = InMemoryExchange(inputs)
                    opened = contextlib.nullcontext(exchange)
                    report = await self._train(request, activation, opened, None, cold=cold)
                    result = ExecutionResult(report, exchange.outputs if report.state == "done" else {})
                    is_reported = True
        finally:
            del self._running[key]
        # An unpublished report is not kept: the next copy of the request is another chance to publish it.
        if is_reported and report.state == "done":
            keep(self._results, key, result, limit=RESULTS_KEPT)
        return result

    async def _train_over_broker(self, request: InvocationRequest, activation: str, *, cold: bool) -> Report:
        """Train, and publish a report when the training begins, and again and again until it has ended."""
        begun = Report(
            request.task.id,
            "training",
            cold=cold,
            attempt=request.attempt,
            activation=activation,
            every_s=REPORT_EVERY_S,
        )
        ended = asyncio.Event()
        # The group waits for a report that is being published, so that the final report comes after it.
        async with task_group() as reports:

            def report_training() -> None:
                reporting = self._report_until(ended, request.task, begun)
                reports.create_task(reporting, name=f"report {begun.id}")

            try:
                return await self._train(request, activation, self._connection.acquire(), report_training, cold=cold)
            finally:
                ended.set()

    async def _report_until(self, ended: asyncio.Event, task: RoundTask, report: Report) -> None:
        while True:
            await self.publish_report(task, report)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_EVERY_S):
                    await ended.wait()
            if ended.is_set():
                return

    async def _train(
        self,
        request: InvocationRequest,
        activation: str,
        connection: AbstractAsyncContextManager[Exchange],
        on_training: Callable[[], None] | None,
        *,
        cold: bool,
    ) -> Report:
        """Train within the task's lease, and turn every error into a report."""
        task, attempt = request.task, request.attempt
        try:
            async with Lease(task, self._clock).timeout():
                if self._client and task.client_id != self._client:
                    reason = f"a task for {task.client_id}, and this is the function of {self._client}"
                    error = WrongClient(f"{reason}: correct the register or the route")
                    return self._failure_report(request, error, activation)
                async with connection as exchange:
                    if not await _is_published(exchange, request):
                        await handle(
                            task, exchange, self._warm, attempt=attempt, on_training=on_training, clock=self._clock
                        )
        except (ClientError, BrokerError, MessageError) as exc:
            return self._failure_report(request, exc, activation)
        except Exception as exc:
            # The outermost loop of a task: an error of ours must not stop the other tasks.
            log.exception("the task failed because of an error of ours")
            return failure_report(request, exc, activation, reveal=False)
        return Report(task.id, "done", cold=cold, attempt=attempt, activation=activation)

    def _failure_report(self, request: InvocationRequest, exc: Exception, activation: str) -> Report:
        log.warning("the task failed", error=str(exc))
        return failure_report(request, exc, activation, reveal=self._warm.site.reveal == "text")


async def _is_published(exchange: Exchange, request: InvocationRequest) -> bool:
    """Whether another instance has published this attempt's update.

    Raises:
        TopicTaken: the topic holds something else, so an update would be dropped.
    """
    task = request.task
    topic = topics.update(task.job, task.round, task.client_id, request.attempt)
    try:
        value = await exchange.get(topic)
    except Denied as exc:
        log.debug("can't check whether the update is published already", error=str(exc))
        return False
    if value is None:
        return False
    try:
        token = read_header(value.payload).token
    except DecodeError:
        token = ""
    if token != task.token:
        raise TopicTaken(f"{topic} holds something that is not an update of this task")
    log.info("the update is published already", topic=topic)
    return True
