"""Starts a trainer, gives it orders one after the other, watches it and ends it.

Whatever the child does (exit, signal, hang, fork, garbage on every descriptor), the worker goes on: an order ends with
an answer or with an error that says how the child ended, and nothing that it started is left running.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from broker.support import processes
from client_fn import errors
from client_fn.errors import BadSettings, LeaseOver, LimitExceeded, TrainerDied, UserCodeFailed
from client_fn.site import Site
from client_fn.trainer import group, shared
from client_fn.trainer.child import Child
from client_fn.trainer.launch import Launcher, launch
from client_fn.trainer.shared import SharedBytes
from client_fn.training import orders, packets
from client_fn.training.orders import Build, Evaluate, Order

START_S: Final = 120.0
"""How long a child may take to import torch: 2 s on a workstation, 30 s from a board's slow card."""

WATCH_S: Final = 0.5
"""How often memory is looked at."""

END_S: Final = 5.0
FILE_BYTES: Final = 8 << 30
"""Largest file that a child may answer with. What it really may be, the server's gate checks."""

TEXT_CHARACTERS: Final = 4000

_FAILURES: Final = {"BadModel": errors.BadModel, "TrainingFailed": errors.TrainingFailed}


class Answer(NamedTuple):
    """A child's answer to an order.

    Attributes:
        facts: as `client_fn.training.work` returns them; nothing of them is checked.
        files: safetensors files by name.
    """

    facts: dict[str, Any]
    files: dict[str, bytes]


class Trainer:
    """A trainer: a child process that is started when it is needed, and again after its end.

    Args:
        site: the site's settings.
        folders: the user's code.
        launch: starts the child.
    """

    def __init__(self, site: Site, folders: Sequence[Path] = (), launch: Launcher = launch) -> None:
        self._site = site
        self._folders = folders
        self._launch = launch
        self._lock = asyncio.Lock()
        self._child: Child | None = None
        self._printing: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an order is being done."""
        return self._lock.locked()

    async def do(
        self,
        order: Order,
        inputs: Mapping[str, SharedBytes],
        *,
        on_training: Callable[[], None] | None = None,
        limit_s: float | None = None,
    ) -> Answer:
        """Let the child do an order. Orders wait for each other.

        Args:
            order: the order.
            inputs: safetensors files by name.
            on_training: called when the training begins.
            limit_s: the child is ended after this time; None: only a long silence ends it. Seconds.

        Raises:
            UserCodeFailed: the model can't be built, trained or evaluated.
            TrainerDied: the child ended.
            LimitExceeded: it was ended for the memory or time that it used.
            LeaseOver: the time limit was reached.
            BadSettings: the site's Python or its device can't be used.
        """
        async with self._lock:
            files = {"order": SharedBytes(orders.encode(order)), **inputs}
            return await self._ask({"ask": "order"}, files, _step(order), on_training, limit_s)

    async def installed(self) -> dict[str, str]:
        """Return the versions of the packages that the child's Python has, by name.

        Raises:
            TrainerDied: the child ended.
        """
        async with self._lock:
            answer = await self._ask({"ask": "installed"}, {}, "the list of packages", None, None)
            return msgspec.json.decode(answer.files["installed"], type=dict[str, str])

    async def start(self) -> None:
        """Start the child, unless it runs, and wait until it can work.

        Raises:
            TrainerDied: it ended before.
            BadSettings: the site's Python can't be started.
        """
        async with self._lock:
            await self._started()

    async def end(self) -> None:
        """End the child and everything that it has started."""
        child, self._child = self._child, None
        if child is None:
            return
        running = child.running
        asyncio.get_running_loop().remove_reader(running.channel)
        running.channel.close()
        await asyncio.to_thread(group.end, running.process.pid, running.mark)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await running.process.wait()
        running.process.close()
        if self._printing is not None:
            self._printing.cancel()

    async def _ask(
        self,
        question: dict[str, Any],
        files: Mapping[str, SharedBytes],
        step: str,
        on_training: Callable[[], None] | None,
        limit_s: float | None,
    ) -> Answer:
        said: Answer | errors.ClientError | None = None
        try:
            child = await self._started()
            packet, descriptors = packets.make(question, {name: file.descriptor for name, file in files.items()})
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is in the queue
                socket.send_fds(child.running.channel, [packet], descriptors)
            said = await self._answer(child, step, on_training, limit_s)
        finally:
            if said is None:
                await self.end()
        if isinstance(said, errors.ClientError):
            raise said
        return said

    async def _started(self) -> Child:
        """Return a child that waits for an order; what an earlier order has left in the channel ends it."""
        child = self._child
        if child is not None:
            if child.running.process.returncode is None and child.packets.empty():
                return child
            await self.end()
        child = Child(await self._launch(self._site, self._folders))
        self._child = child
        asyncio.get_running_loop().add_reader(child.running.channel, child.receive)
        self._printing = asyncio.create_task(child.print(), name=f"output of trainer {child.running.process.pid}")
        said, _ = await self._next(child, "its start", START_S, None)
        if said != {"say": "ready"}:
            raise TrainerDied("the trainer did not start", child.lines)
        return child

    async def _answer(
        self, child: Child, step: str, on_training: Callable[[], None] | None, limit_s: float | None
    ) -> Answer | errors.ClientError:
        """Wait for the answer, or for the error that the child reports, and look after the child meanwhile."""
        clock = asyncio.get_running_loop().time
        until_s = None if limit_s is None else clock() + limit_s
        while True:
            said, files = await self._next(child, step, self._site.silence_s, until_s)
            match said:
                case {"say": "training"}:
                    if on_training is not None:
                        on_training()
                case {"say": "alive"}:
                    pass
                case {"say": "done"}:
                    return Answer(said.get("facts") or {}, _read(files, step))
                case {"say": "failed", "error": str(error), "facts": dict(facts)}:
                    return _failure(error, facts)
                case {"say": "ended", "code": int(code)}:
                    # Only the copy that did the order has ended; the trainer waits for the next one.
                    return self._died(child, step, code)
                case _:
                    raise TrainerDied(f"the trainer wrote garbage to its worker during {step}", child.lines)

    async def _next(
        self, child: Child, step: str, silence_s: float, until_s: float | None
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Return the next packet. Raise if the child ends, uses too much memory, or says nothing for too long."""
        clock = asyncio.get_running_loop().time
        silent_until_s = clock() + silence_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    packet = await child.packets.get()
                if packet is not None:
                    return packet
                raise await self._ended(child, step)
            if child.running.process.returncode is not None and child.packets.empty():
                raise self._died(child, step, child.running.process.returncode)
            used_mb = await asyncio.to_thread(group.memory_bytes, child.running.process.pid) >> 20
            if used_mb > self._site.memory_mb:
                limit = f"more than {self._site.memory_mb} MiB (FEDKEEPER_TRAINER_MEMORY_MB)"
                raise LimitExceeded(f"{step} used {used_mb} MiB, {limit}", child.lines)
            if until_s is not None and clock() > until_s:
                raise LeaseOver("", 0.0)
            if clock() > silent_until_s:
                raise LimitExceeded(
                    f"{step} took longer than {silence_s:g} s (FEDKEEPER_TRAINER_SILENCE_S)", child.lines
                )

    async def _ended(self, child: Child, step: str) -> TrainerDied:
        """Return the error for a channel that is closed or damaged."""
        if child.is_damaged:
            return TrainerDied(f"the trainer wrote garbage to its worker during {step}", child.lines)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                return self._died(child, step, await child.running.process.wait())
        return TrainerDied(f"the trainer closed its channel during {step}", child.lines)

    def _died(self, child: Child, step: str, code: int) -> TrainerDied:
        return TrainerDied(
            f"the process {processes.describe_exit(code)} during {step}", child.lines, retryable=code < 0
        )


def _step(order: Order) -> str:
    if isinstance(order, Build):
        return "the construction of the model"
    return "the evaluation of the model" if isinstance(order, Evaluate) else "the training"


def _read(files: Mapping[str, int], step: str) -> dict[str, bytes]:
    contents = {}
    try:
        for name, descriptor in files.items():
            contents[name] = shared.read(descriptor, FILE_BYTES)
    except (ValueError, OSError) as exc:
        raise TrainerDied(f"the trainer's answer after {step} can't be read: {exc}") from exc
    finally:
        for descriptor in files.values():
            os.close(descriptor)
    return contents


def _failure(error: str, facts: Mapping[str, object]) -> errors.ClientError:
    texts = {name: str(facts.get(name, ""))[:TEXT_CHARACTERS] for name in ("sentence", "cause", "where", "text")}
    if error == "BadSettings":
        return BadSettings("FEDKEEPER_DEVICE", texts["sentence"].removeprefix("FEDKEEPER_DEVICE: "))
    if error == "LeaseOver":
        return LeaseOver("", 0.0)
    return _FAILURES.get(error, UserCodeFailed)(**texts)
