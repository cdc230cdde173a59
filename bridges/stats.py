"""Counts each client's invocations, failures and cold starts, and writes the counts down once a second."""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog

from broker import topics
from broker.base import Broker
from broker.errors import BrokerError
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import Invocation
from broker.messages.register import ClientStats

log = structlog.get_logger(__name__)

EVERY_S: Final = 1.0
"""What a bridge that dies has counted since it last wrote is forgotten: counts are for people to look at."""

_FAILURES: Final = frozenset({"failed", "dead"})
_RUNS: Final = frozenset({"accepted", "running", "succeeded", "failed", "dead"})


class StatsRecorder:
    """One bridge's counts.

    Args:
        broker: keeps them.
        platform: whose clients they are about.
    """

    def __init__(self, broker: Broker, platform: str) -> None:
        self._broker = broker
        self._platform = platform
        self._known: dict[str, ClientStats] = {}
        self._fresh: dict[str, list[tuple[Invocation, float]]] = {}

    def note(self, invocation: Invocation, now_s: float) -> None:
        """Count something that happened."""
        self._fresh.setdefault(invocation.client, []).append((invocation, now_s))

    async def write(self) -> None:
        """Write down what is new for ever, and a last time at the end."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                await self.flush()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self.flush()

    async def flush(self) -> None:
        """Write down what is new."""
        fresh, self._fresh = self._fresh, {}
        for client, events in fresh.items():
            try:
                tally = self._known.get(client) or await self._read(client)
                for invocation, now_s in events:
                    tally = counted(tally, invocation, now_s)
                if tally is not None:
                    self._known[client] = tally
                    await self._broker.put(topics.client_stats(self._platform, client), codec.encode(tally))
            except BrokerError as exc:
                log.warning("a client's counts are not written down", client=client, error=str(exc))

    async def _read(self, client: str) -> ClientStats | None:
        found = await self._broker.get(topics.client_stats(self._platform, client))
        try:
            return None if found is None else codec.decode(ClientStats, found.payload)
        except DecodeError as exc:
            log.warning("unreadable counts; beginning anew", client=client, error=str(exc))
            return None


def counted(before: ClientStats | None, invocation: Invocation, now_s: float) -> ClientStats:
    """The tally with one more thing that happened; each run counts once, however much is heard of it."""
    run = f"{invocation.job}.{invocation.round}.{invocation.attempt}"
    tally = before or ClientStats(
        client=invocation.client, platform=invocation.platform, state="accepted", seen_s=now_s
    )
    first = invocation.outcome in _RUNS and tally.run != run
    return msgspec.structs.replace(
        tally,
        platform=invocation.platform,
        state=invocation.outcome,
        seen_s=now_s,
        invocations=tally.invocations + first,
        failures=tally.failures + (invocation.outcome in _FAILURES),
        cold=tally.cold + (invocation.outcome == "running" and invocation.cold is True),
        activation=invocation.activation or tally.activation,
        run=run if first else tally.run,
    )
