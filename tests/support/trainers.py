"""Trainers in this process, for tests of what is around them. `client_fn.trainer` has tests with real processes."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import pytest

from client_fn.code.named import Names
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import LeaseOver
from client_fn.function import WarmState
from client_fn.handlers import local
from client_fn.runtime import instance
from client_fn.site import Site
from client_fn.trainer import shared
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers
from client_fn.training import orders, together, work
from client_fn.training.orders import Look, Order, Together

_ONE_AT_A_TIME: Final = threading.Lock()
"""All share torch's random numbers."""


class InlineTrainers(Trainers):
    """Does each order in a thread. It allows everything, and knows no code but what this process can import."""

    def __init__(self) -> None:
        """There is no site and no code."""

    async def admit(self, names: Names) -> None:
        """Allow all names."""

    async def warm(self) -> None:
        """There is nothing to start."""

    async def check(self) -> str:
        return ""

    async def end(self) -> None:
        """There is nothing to end."""

    async def current_code(self, names: Names) -> str:  # noqa: ARG002 (the interface's argument)
        """Nothing is of the user's code."""
        return ""

    async def do(
        self,
        names: Names,  # noqa: ARG002 (the interface's argument)
        order: Order | Look | Together,
        inputs: Mapping[str, SharedBytes],
        *,
        on_training: Callable[[], None] | None = None,
        limit_s: float | None = None,  # noqa: ARG002 (the order's own limit is used)
    ) -> Answer:
        """Do the order; a cancellation ends it within a batch."""
        loop, ended = asyncio.get_running_loop(), threading.Event()

        def say(what: str) -> None:
            if ended.is_set():
                raise LeaseOver("", 0.0)
            if what == "training" and on_training is not None:
                loop.call_soon_threadsafe(on_training)

        def do() -> Answer:
            with _ONE_AT_A_TIME:
                contents = {name: shared.read(file.descriptor, 1 << 40) for name, file in inputs.items()}
                decoded = orders.decode(orders.encode(order))
                if isinstance(decoded, Together):
                    return Answer(*together.do(decoded, contents, say))
                return Answer(*work.do(decoded, contents, say))

        running = loop.run_in_executor(None, do)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            ended.set()
            await asyncio.wait([running])
            raise


def use_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let instances and workers in this process train without a trainer process."""

    @contextlib.asynccontextmanager
    async def open_trainers(_: Site) -> AsyncIterator[InlineTrainers]:
        yield InlineTrainers()

    monkeypatch.setattr(instance, "open_trainers", open_trainers)
    monkeypatch.setattr(local, "open_trainers", open_trainers)


def warm_state(site: Site | None = None) -> WarmState:
    """Return a new instance's state with trainers in this process."""
    site = site or Site()
    return WarmState(InlineTrainers(), site, ShardCache(site))
