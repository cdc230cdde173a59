"""A relay that crashes at any of its steps: nothing is lost and nothing is repeated."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridges.relay import Relay
from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery
from broker.messages import progress
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.relay_world import World, answer_with_state, events, settings, watch_to_end


class Crash(BaseException):
    """A crash of the relay. A BaseException, so no code of the relay catches it."""


@dataclass
class CrashAfter:
    """Crashes a relay at the step after `steps_left` steps. A step is a call to a broker or an acknowledgement."""

    steps_left: int

    def step(self) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise Crash

    def attach(self, bus: Broker) -> Broker:
        """Count every call and every acknowledgement of this connection as a step; return the connection."""
        for name in ("publish", "put", "get", "delete", "purge"):
            setattr(bus, name, self._guarded(getattr(bus, name)))
        original = bus.subscribe

        def subscribe(*args: Any, **more: Any) -> Any:
            return _CountedSubscription(self, original(*args, **more))

        bus.subscribe = subscribe  # type: ignore[method-assign]
        return bus

    def _guarded(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(*args: Any, **more: Any) -> Any:
            self.step()
            return await call(*args, **more)

        return guarded


class _CountedSubscription:
    """A subscription whose acknowledgements are steps."""

    def __init__(self, crash: CrashAfter, subscription: Any) -> None:
        self._crash, self._subscription = crash, subscription

    async def __aenter__(self) -> AsyncIterator[Delivery]:
        self._deliveries = await self._subscription.__aenter__()
        return self._counted_deliveries()

    async def __aexit__(self, *error: object) -> None:
        await self._subscription.__aexit__(*error)

    async def _counted_deliveries(self) -> AsyncIterator[Delivery]:
        async for delivery in self._deliveries:
            delivery.ack = self._crash._guarded(delivery.ack)
            yield delivery


@pytest.mark.slow
async def test_a_relay_that_crashes_at_any_step_is_replaced_and_nothing_is_lost_or_repeated() -> None:
    """The test crashes the relay at each of its steps in turn."""
    for steps in itertools.count():
        async with AsyncExitStack() as stack:
            world = World("memory", Path(f"crash-{steps}"), stack)
            backbone, site = await world.at("backbone"), await world.at("site")
            crash = CrashAfter(steps)
            crashing = [
                crash.attach(await world.connect(await world.url(place), ack_wait_s=0.1))
                for place in ("backbone", "site")
            ]
            fleet = Fleet(site, answer_with_state, platform="edge-a")
            await Client(backbone).register(fakes.clients(2, platform="edge-a"))
            job = await submit(backbone, cohort={"clients": 2})
            async with running(serve(backbone, FakeLearning()), fleet.serve()):
                try:
                    async with running(Relay(settings(), *crashing, heartbeat_s=0.03).run()):
                        await watch_to_end(Client(backbone), job)
                        await wait_until_over(site, job)
                    has_crashed = False
                except Crash:
                    has_crashed = True
                    replaced = [await world.connect(await world.url(place), 0.1) for place in ("backbone", "site")]
                    async with running(Relay(settings(), *replaced, heartbeat_s=0.03).run()):
                        job_events = await watch_to_end(Client(backbone), job)
                        counted = [event.client for event in job_events if isinstance(event, progress.UpdateCounted)]
                        assert Counter(counted) == {"client-00": 2, "client-01": 2}, f"step {steps}"
                        assert set(fleet.task_counts.values()) == {1}, f"trained twice after a crash at step {steps}"
                        refused = [event for event in job_events if isinstance(event, progress.UpdateRefused)]
                        assert not refused, f"step {steps}"
        if not has_crashed:
            break
    assert steps > 40, "two rounds of two clients have more steps than that"


async def submit(backbone: Broker, **sections: Any) -> str:
    """Submit a job before any server runs."""
    await backbone.publish(topics.submission("job"), msgspec.json.encode(fakes.job(**sections)))
    return "job"


async def wait_until_over(site: Broker, job: str) -> None:
    """Wait until the site has received the end of the job."""
    await events(site, topics.progress(job, "job", "completed"), 1)
