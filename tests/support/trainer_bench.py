"""A trainer's real process with its inputs, for tests of what models do to it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from broker.messages import tensors
from client_fn.errors import ClientError
from client_fn.site import Site
from client_fn.trainer.answers import Answer
from client_fn.trainer.fork_server import open_fork_server
from client_fn.trainer.process import Trainer
from client_fn.trainer.shared import SharedBytes
from client_fn.training.orders import Build, Evaluate, Evaluation, Model, Train, Training
from tests.support import bad_models
from tests.support.bad_models import Place
from tests.support.fakes import soon

WITHIN_S: Final = 60.0
SILENCE_S: Final = 5.0
MEMORY_MB: Final = 1200
TRAINING: Final = Training("sgd", 0.1, batch_size=5, local_epochs=1, optimizer_state="reset")

GOOD: Final = """
from torch import nn

class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""


@dataclass
class Bench:
    """A trainer and the inputs of its orders.

    Attributes:
        folder: the user's code.
        trainer: a trainer of this code.
        site: its settings.
        expected: the weights of the good model.
    """

    folder: Path
    trainer: Trainer
    site: Site
    expected: bytes = b""
    inputs: dict[str, SharedBytes] = field(default_factory=dict)

    async def build(self, type_: str, trainer: Trainer | None = None) -> Answer:
        """Let a trainer build a model; by default the bench's."""
        async with asyncio.timeout(WITHIN_S):
            return await (trainer or self.trainer).do(Build(Model(type_), 1), {})

    async def run(self, type_: str, place: Place, trainer: Trainer | None = None) -> Answer:
        """Give the order that reaches a place of a bad model."""
        if place in {"import", "constructor"}:
            return await self.build(type_, trainer)
        model = Model(type_)
        order = Evaluate(model, Evaluation(5)) if place == "evaluation" else Train(model, TRAINING, 1, "cpu", 600.0)
        async with asyncio.timeout(WITHIN_S):
            return await (trainer or self.trainer).do(order, self.inputs)

    async def fail(self, action: str, place: Place) -> ClientError:
        """Run a bad model, and a good one after it. Return the error of the bad one."""
        try:
            await self.run(bad_models.write(self.folder, action, place), place)
        except ClientError as exc:
            await self.check_good()
            return exc
        raise AssertionError(f"{action} at {place} did not fail")

    async def check_good(self) -> None:
        """Build the good model; it has always the same weights."""
        assert (await self.build("good:Good")).files["weights"] == self.expected

    @property
    def mark(self) -> str:
        """What marks the processes of the trainer."""
        child = self.trainer._child
        return "" if child is None else child.running.mark

    async def wait_until_alone(self) -> None:
        """Wait until the trainer and the process above it are the only ones of theirs."""
        await soon(lambda: len(bad_models.left_running(self.mark)) == 2)


@contextlib.asynccontextmanager
async def open_bench(folder: Path, silence_s: float = WITHIN_S, *, is_copy: bool = True) -> AsyncIterator[Bench]:
    """Start a trainer, and expect at the end that nothing of it is left.

    Args:
        folder: the user's code; the good model is written there.
        silence_s: how long its code may take for a step, in seconds.
        is_copy: whether the trainer is a copy of a fork server, as in `fedkeeper up`, or a new process.
    """
    (folder / "good.py").write_text(GOOD)
    site = Site(silence_s=silence_s, memory_mb=MEMORY_MB)
    async with contextlib.AsyncExitStack() as stack:
        if is_copy:
            site = replace(site, fork_server=await stack.enter_async_context(open_fork_server(site, os.environ)))
        bench = Bench(folder, Trainer(site, [folder]), site)
        bench.expected = (await bench.build("good:Good")).files["weights"]
        generator = np.random.default_rng(1)
        x = generator.random((10, 8, 8), dtype=np.float32)
        shared = SharedBytes(tensors.encode({"x": x, "y": np.arange(10)}))
        bench.inputs = {"weights": SharedBytes(bench.expected), "shard": shared}
        try:
            yield bench
        finally:
            mark = bench.mark
            await bench.trainer.end()
        await soon(lambda: not bad_models.left_running(mark or "none"))
