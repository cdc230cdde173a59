"""Worker processes on this machine: any of them trains for any client.

A worker gets its next task as soon as it has trained, while it still publishes the last one's update.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from bridges.errors import InvocationFailed
from bridges.local.pool import Pool, started
from bridges.local.settings import Settings
from bridges.platform import Activation, BasePlatform
from bridges.secrets import SecretStore
from broker.base import Broker
from broker.messages.round import RoundTask


class LocalPlatform(BasePlatform[Settings, None]):
    """The workers of this machine. Use it as `async with opened(...) as platform`.

    Args:
        settings: of the bridge.
        functions: None: clients need no function of their own.
        pool: the workers.
    """

    def __init__(self, settings: Settings, functions: None, pool: Pool) -> None:
        super().__init__(settings, functions)
        self._pool = pool

    @property
    def run_s(self) -> float:
        """See `bridges.platform.ManagedPlatform`."""
        return self.settings.run_s

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Have an idle worker train and publish; see `bridges.platform.Platform`."""
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
                    case _:
                        raise InvocationFailed(report.reason, retryable=report.retryable, activation=activation)
        except (GeneratorExit, asyncio.CancelledError):
            # Given up: whoever asked no longer waits, and a training can't be interrupted.
            if is_ours:
                self._pool.replace(worker)
                is_ours = False
            raise
        finally:
            del worker.reports[task.id]
            if is_ours:
                self._pool.put_back(worker)


@contextlib.asynccontextmanager
async def opened(settings: Settings, vault: SecretStore, broker: Broker) -> AsyncIterator[LocalPlatform]:  # noqa: ARG001 (every platform's)
    """Warm workers; see `bridges.platform.PlatformModule`. They have connections of their own to the broker."""
    async with started(settings) as pool:
        yield LocalPlatform(settings, None, pool)
