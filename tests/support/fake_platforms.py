"""Platforms of functions that a test can follow by hand: nothing runs but what the test says."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Final

from bridges import Activation, Invoker, RetryPolicy, Runner
from bridges.errors import FunctionGone, PlatformFailed
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents
from broker.messages.cloudevents import Envelope
from broker.messages.function import Change, Deployed, Function
from broker.messages.round import RoundTask

WITHIN_S: Final = 60.0
"""Longer than a loaded machine takes for anything that happens at once elsewhere."""


async def publish(bus: Broker, one: RoundTask, dedupe: str | None = None) -> None:
    """Put a task where its platform's bridge takes it."""
    event = cloudevents.encode(Envelope(one.id, "/server", "round.task", 0.0), one)
    await bus.publish(topics.task(one.client_type, one.client_id), event, dedupe=dedupe)


@dataclass
class FakePlatform:
    """Does what a test says.

    Attributes:
        behave: raises what an invocation should fail with, or returns.
        calls: every invocation: client and attempt.
        most: how many were under way at once, at the most.
    """

    behave: Callable[[RoundTask, int], "asyncio.Future[None] | None"] = lambda *_: None
    calls: list[tuple[str, int]] = field(default_factory=list)
    concurrency: int = 4
    name: str = "fake"
    under_way: int = 0
    most: int = 0

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        self.calls.append((task.client_id, attempt))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            yield Activation(f"run-{len(self.calls)}", "running", cold=True)
            waiting = self.behave(task, attempt)
            if waiting is not None:
                await waiting
            yield Activation(f"run-{len(self.calls)}", "succeeded")
        finally:
            self.under_way -= 1


def runner(bus: Broker, platform: FakePlatform) -> Runner:
    """A bridge's runner that soon tries again."""
    return Runner(bus, Invoker(platform, RetryPolicy(retry_first_s=0.01)), heartbeat_s=0.2)


@dataclass
class FakeHost:
    """Functions in a dict; each answers a task at once, by a report of its own if `silent`.

    Attributes:
        full: creating fails.
        packages: what each function was created from.
        invoked: every invocation: client and attempt.
    """

    name: str = "fake"
    concurrency: int = 4
    per_minute: int = 0
    start_s: float = 5.0
    run_s: float = 5.0
    full: bool = False
    silent: bool = False
    functions: dict[str, Function] = field(default_factory=dict)
    packages: dict[str, bytes | None] = field(default_factory=dict)
    invoked: list[tuple[str, int]] = field(default_factory=list)

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:
        if self.full:
            raise PlatformFailed("fake", f"create {function.name}", "no room")
        known = self.functions.get(function.name)
        self.functions[function.name], self.packages[function.name] = function, package
        change: Change = "created" if known is None else "same" if known.digest == function.digest else "updated"
        return change, deployed(function)

    async def delete(self, name: str) -> Change:
        return "deleted" if self.functions.pop(name, None) else "absent"

    async def list(self) -> list[Deployed]:
        return [deployed(function) for function in self.functions.values()]

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        if task.client_id not in self.functions:
            raise FunctionGone("404: no such function")
        self.invoked.append((task.client_id, attempt))
        yield Activation("a1", "accepted")
        if not self.silent:
            yield Activation("a1", "succeeded")


def deployed(function: Function) -> Deployed:
    """What a host tells of a function."""
    return Deployed(name=function.name, fabric=function.fabric, digest=function.digest, url=f"fake/{function.name}")
