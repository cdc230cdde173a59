"""Platforms whose functions do what a test says."""

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
"""A timeout that is long enough on a loaded machine. Seconds."""


async def publish(bus: Broker, task: RoundTask, dedupe: str | None = None) -> None:
    """Publish a task to its client's topic."""
    event = cloudevents.encode(Envelope(task.id, "/server", "round.task", 0.0), task)
    await bus.publish(topics.task(task.client_type, task.client_id), event, dedupe=dedupe)


@dataclass
class FakePlatform:
    """A platform whose invocations behave as a test says.

    Attributes:
        behave: called for each invocation: raises its failure, returns a future to wait for, or None.
        calls: the client and attempt of every invocation.
        in_flight: how many invocations are in progress.
        max_in_flight: the highest value of `in_flight` so far.
    """

    behave: Callable[[RoundTask, int], "asyncio.Future[None] | None"] = lambda *_: None
    calls: list[tuple[str, int]] = field(default_factory=list)
    concurrency: int = 4
    name: str = "fake"
    in_flight: int = 0
    max_in_flight: int = 0

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        self.calls.append((task.client_id, attempt))
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            yield Activation(f"run-{len(self.calls)}", "running", cold=True)
            future = self.behave(task, attempt)
            if future is not None:
                await future
            yield Activation(f"run-{len(self.calls)}", "succeeded")
        finally:
            self.in_flight -= 1


def runner(bus: Broker, platform: FakePlatform) -> Runner:
    """A bridge's runner with short delays."""
    return Runner(bus, Invoker(platform, RetryPolicy(retry_first_s=0.01)), heartbeat_s=0.2)


@dataclass
class FakeManagedPlatform:
    """A platform that keeps its functions in a dict. Each invocation succeeds at once.

    Attributes:
        full: whether the creation of a function fails.
        silent: whether the platform yields only `accepted`, so that a test must publish the function's reports.
        packages: the package that each function was created from.
        invoked: the client and attempt of every invocation.
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
        before = self.functions.get(function.name)
        self.functions[function.name], self.packages[function.name] = function, package
        change: Change = "created" if before is None else "same" if before.digest == function.digest else "updated"
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
    """How the fake platform lists a function."""
    return Deployed(name=function.name, fabric=function.fabric, digest=function.digest, url=f"fake/{function.name}")
