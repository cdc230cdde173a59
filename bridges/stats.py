"""Counts each client's invocations, failures and cold starts, and retains the counts on the broker.

That is done once a second, and less often when it is much: the counts are only for people.
"""

import asyncio
import contextlib
from typing import Final

import msgspec

from broker import topics
from broker.base import Broker
from broker.errors import BrokerError
from broker.messages import codec, origin
from broker.messages.errors import DecodeError
from broker.messages.invocation import Invocation
from broker.messages.register import ClientStats
from broker.support import loggers
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

EVERY_S: Final = 1.0
"""Least seconds between two writes. A bridge that dies loses the counts since its last write."""

MOST_PER_S: Final = 100
"""Clients whose counts are written per second, on average: those of thousands would cost as much as their updates."""

AT_ONCE: Final = 32
"""The most counts that are written at the same time."""

_FAILURES: Final = frozenset({"failed", "dead"})
_RUNS: Final = frozenset({"accepted", "running", "succeeded", "failed", "dead"})


class StatsRecorder:
    """The counts of one platform's clients.

    Args:
        broker: the connection; it retains the counts.
        platform: name of the platform.
    """

    def __init__(self, broker: Broker, platform: str) -> None:
        self._broker = broker
        self._platform = platform
        self._stats: dict[str, ClientStats] = {}
        self._pending: dict[str, list[tuple[Invocation, float]]] = {}

    def add(self, invocation: Invocation, now_s: float) -> None:
        """Count an invocation; `flush` writes it.

        Args:
            invocation: one outcome of a client's invocation.
            now_s: the time, in seconds since the epoch.
        """
        self._pending.setdefault(invocation.client, []).append((invocation, now_s))

    async def flush_periodically(self) -> None:
        """Write what is new again and again until cancelled, and a last time then."""
        pause_s = EVERY_S
        try:
            while True:
                await asyncio.sleep(pause_s)
                pause_s = max(EVERY_S, len(self._pending) / MOST_PER_S)
                await self.flush()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self.flush()

    async def flush(self) -> None:
        """Write what is new. What can't be written is logged and forgotten."""
        clients = list(self._pending)
        waiting = iter(clients)

        async def write_next() -> None:
            for client in waiting:
                await self._write(client, self._pending.pop(client))

        async with task_group() as group:
            for number in range(min(AT_ONCE, len(clients))):
                group.create_task(write_next(), name=f"write counts of {self._platform} {number}")

    async def _write(self, client: str, invocations: list[tuple[Invocation, float]]) -> None:
        try:
            stats = self._stats.get(client) or await self._read(client)
            for invocation, now_s in invocations:
                stats = with_invocation(stats, invocation, now_s)
            if stats is not None:
                self._stats[client] = stats
                await self._broker.put(topics.client_stats(self._platform, client), codec.encode(stats))
        except BrokerError as exc:
            log.warning("a client's counts are not written", client=client, error=str(exc))

    async def _read(self, client: str) -> ClientStats | None:
        value = await self._broker.get(topics.client_stats(self._platform, client))
        if value is None:
            return None
        try:
            stats = codec.decode(ClientStats, value.payload)
            origin.check_topic(value.topic, topics.client_stats, stats.platform, stats.client)
        except DecodeError as exc:
            log.warning("unreadable counts; beginning anew", client=client, error=str(exc))
            return None
        return stats


def with_invocation(stats: ClientStats | None, invocation: Invocation, now_s: float) -> ClientStats:
    """A client's stats with one more invocation. Each run counts once, however many outcomes it has.

    Args:
        stats: the stats so far; None if the client has none.
        invocation: one outcome of a run.
        now_s: the time, in seconds since the epoch.
    """
    run = f"{invocation.job}.{invocation.round}.{invocation.attempt}"
    stats = stats or ClientStats(client=invocation.client, platform=invocation.platform, state="accepted", seen_s=now_s)
    is_new_run = invocation.outcome in _RUNS and stats.run != run
    return msgspec.structs.replace(
        stats,
        platform=invocation.platform,
        state=invocation.outcome,
        seen_s=now_s,
        invocations=stats.invocations + is_new_run,
        failures=stats.failures + (invocation.outcome in _FAILURES),
        cold=stats.cold + (invocation.outcome == "running" and invocation.cold is True),
        activation=invocation.activation or stats.activation,
        run=run if is_new_run else stats.run,
    )
