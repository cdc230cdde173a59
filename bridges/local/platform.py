"""Worker processes on this machine. Each worker can train for any client.

A worker gets its next task as soon as it has trained, while it still publishes the update of the last one.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from bridges.errors import InvocationFailed, SiteFault
from bridges.local.pool import Pool, open_pool
from bridges.local.settings import Settings
from bridges.platform import Activation, BasePlatform, Condition
from bridges.secrets import SecretStore
from broker.base import Broker
from broker.messages.data_report import DataCheck, DataReport
from broker.messages.round import RoundTask


class LocalPlatform(BasePlatform[Settings, None]):
    """The workers of this machine. Use it as `async with opened(...) as platform`.

    Args:
        settings: the platform's settings.
        functions: always None: clients need no function of their own.
        pool: the workers.
    """

    def __init__(self, settings: Settings, functions: None, pool: Pool) -> None:
        super().__init__(settings, functions)
        self._pool = pool

    @property
    def condition(self) -> Condition:
        """Implements `ManagedPlatform.condition`."""
        ready, fault = self._pool.ready, self._pool.fault
        problem = f"worker can't start: {fault}" if fault else ""
        return Condition(ready.processor, ready.device, problem, is_able=not fault)

    @property
    def run_s(self) -> float:
        """Implements `ManagedPlatform.run_s`."""
        return self.settings.run_s

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Implements `Platform.invoke`: an idle worker trains and publishes the update.

        Raises:
            SiteFault: the site's settings let no task run.
            InvocationFailed: the worker reports a failure, or its process has ended.
        """
        worker = await self._pool.take()
        reports = worker.send(task, attempt)
        activation, is_ours = f"{worker.name}-{worker.count}", True
        try:
            while True:
                report = await reports.get()
                match report.state:
                    case "training":
                        yield Activation(activation, "running", report.cold)
                    case "trained":
                        self._pool.put_back(worker)
                        is_ours = False
                    case "done":
                        yield Activation(activation, "succeeded")
                        return
                    case _ if report.nothing_ran:
                        worker.is_retired = True
                        raise SiteFault(report.reason, activation=activation)
                    case _:
                        raise InvocationFailed(report.reason, retryable=report.retryable, activation=activation)
        except (GeneratorExit, asyncio.CancelledError):
            # The run is given up. A training can't be interrupted, so the worker is killed.
            if is_ours:
                self._pool.give_up(worker, (task.id, attempt))
                is_ours = False
            raise
        finally:
            del worker.reports[task.id, attempt]
            if is_ours:
                self._pool.put_back(worker)
            self._pool.end_if_retired(worker)

    async def check(self, check: DataCheck) -> DataReport:
        """Implements `ManagedPlatform.check`: a worker looks, an idle one if there is one.

        Raises:
            InvocationFailed: no worker can start, it ended, or it does not answer in time.
        """
        try:
            async with asyncio.timeout(check.limit_s):
                worker = await self._pool.find()
        except TimeoutError:
            raise InvocationFailed("no worker is ready yet: try again in a minute") from None
        return await worker.check(check)


@contextlib.asynccontextmanager
async def opened(settings: Settings, secrets: SecretStore, broker: Broker) -> AsyncIterator[LocalPlatform]:  # noqa: ARG001 (every platform's)
    """Implements `PlatformModule.opened`. The workers have their own connections to the broker.

    Raises:
        PlatformFailed: no worker can start, for example because the device can't be used.
    """
    async with open_pool(settings) as pool:
        await pool.wait_until_ready()
        yield LocalPlatform(settings, None, pool)
