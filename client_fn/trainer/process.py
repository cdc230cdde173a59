"""Starts a trainer, gives it orders one after the other, watches it and ends it.

Whatever the child does (exit, signal, hang, fork, garbage on every descriptor), the worker goes on: an order ends with
an answer or with an error that says how the child ended, and nothing that it started is left running.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from broker.support import processes
from client_fn import errors
from client_fn.errors import BadSettings, LeaseOver, LimitExceeded, TrainerDied
from client_fn.site import Site
from client_fn.trainer import answers, group
from client_fn.trainer.answers import Answer
from client_fn.trainer.child import END_S, Child, Packet, close
from client_fn.trainer.launch import launch
from client_fn.trainer.running import Launcher
from client_fn.trainer.shared import SharedBytes
from client_fn.training import orders, packets
from client_fn.training.orders import Build, Look, Order, Together, Train

START_S: Final = 120.0
"""How long a child may take to import torch: 2 s on a workstation, 30 s from a board's slow card."""

WATCH_S: Final = 0.5
"""How often memory is looked at."""

TAKE_S: Final = 5.0
"""How long a child that waits may take to answer to an order."""

_PREPARATION: Final = "the import of torch's compiler"
_TRY: Final = "the try of the device"

_NOT_OF_THE_USER: Final = frozenset({_PREPARATION, _TRY})
"""Steps without code of the user's, which take long on a small board."""


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
        self._ending: asyncio.Task[None] | None = None
        self._users = 0

    @property
    def is_used(self) -> bool:
        """Whether somebody is in `use`."""
        return bool(self._users)

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Say for a block that the trainer must not be ended."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    async def do(
        self,
        order: Order | Look | Together,
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
            if orders.compiles(order):
                await self._prepared()
            question, text, files = {"ask": "order"}, orders.encode(order), dict(inputs)
            if len(text) > packets.TEXT_BYTES:
                files["order"] = SharedBytes(text.encode())
            else:
                question["text"] = text
            return await self._ask(question, files, _step(order), on_training, limit_s)

    async def installed(self) -> tuple[dict[str, str], str]:
        """Return the versions of the packages that the child's Python has, by name, and its own version.

        Raises:
            TrainerDied: the child ended, or its answer can't be read.
        """
        async with self._lock:
            answer = await self._ask({"ask": "installed"}, {}, "the listing of packages", None, None)
        try:
            packages = msgspec.json.decode(answer.files.get("installed", b""), type=dict[str, str])
        except msgspec.DecodeError as exc:
            raise TrainerDied(f"the trainer's list of packages can't be read: {exc}") from exc
        return packages, str(answer.facts.get("python", ""))

    async def try_device(self, device: str, *, anew: bool = False) -> str:
        """Let a copy of the child compute on a device, and return the kind of its processor.

        Args:
            device: torch's name of the device.
            anew: start a new child: after an error of CUDA, its process can't use CUDA any more.

        Raises:
            TrainerDied: the child ended.
            LimitExceeded: there was no answer in time.
            BadSettings: the device can't be used, or the site's Python can't be started.
        """
        async with self._lock:
            if anew:
                await self.end()
            answer = await self._ask({"ask": "try", "device": device}, {}, _TRY, None, None)
        return str(answer.facts.get("processor", ""))[: answers.TEXT_CHARACTERS]

    async def start(self) -> None:
        """Start the child, unless it runs, and wait until it can work.

        Raises:
            TrainerDied: it ended before.
            BadSettings: the site's Python can't be started, is too old or lacks a library.
        """
        async with self._lock:
            await self._started()

    async def end(self) -> None:
        """End the child and everything that it has started, also if this call is cancelled."""
        child, self._child = self._child, None
        if child is not None:
            self._ending = asyncio.create_task(child.end(), name=f"end of trainer {child.running.process.pid}")
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _prepared(self) -> None:
        """Let the child import torch's compiler, once. That is no time of the user's code."""
        if not (await self._started()).is_prepared:
            await self._ask({"ask": "prepare"}, {}, _PREPARATION, None, None)
            if self._child is not None:
                self._child.is_prepared = True

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
            child, first = await self._asked(question, files)
            said = await self._answer(child, first, step, on_training, limit_s)
        finally:
            if said is None:
                await self.end()
        if isinstance(said, errors.ClientError):
            try:
                raise said
            finally:
                # Otherwise the error and this frame would hold each other, and the inputs' memory with them.
                said = None
        return said

    async def _asked(self, question: dict[str, Any], files: Mapping[str, SharedBytes]) -> tuple[Child, Packet]:
        """Return a child that has taken the order, and the first that it has said about it.

        A child that an earlier order has harmed is replaced, once.
        """
        for is_last in (False, True):
            child = await self._started()
            child.begin(WATCH_S)
            facts = {**question, "order": child.order}
            packet, descriptors = packets.make(facts, {name: file.descriptor for name, file in files.items()})
            try:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is in the queue
                    socket.send_fds(child.running.channel, [packet], descriptors)
                first = await self._next(child, _TAKE)
            except TrainerDied:
                if is_last:
                    raise
                await self.end()
                continue
            break
        return child, first

    async def _started(self) -> Child:
        """Return a child that can take an order: the one that is there, or a new one."""
        child = self._child
        if child is not None and child.running.process.returncode is None and not child.is_damaged:
            return child
        await self.end()
        child = Child(await self._launch(self._site, self._folders))
        self._child = child
        child.attach()
        is_ready = False
        try:
            said, beside = await self._next(child, _START)
            close(beside)
            match said:
                case {"say": "unusable", "fault": str(fault)}:
                    program = self._site.python or sys.executable
                    raise BadSettings("FEDKEEPER_TRAINER_PYTHON", f"{program} {fault[: answers.TEXT_CHARACTERS]}")
                case {"say": "ready"}:
                    is_ready = True
                case _:
                    raise await _garbage(child, _START.name)
        finally:
            if not is_ready:
                await self.end()
        return child

    async def _answer(
        self, child: Child, first: Packet, step: str, on_training: Callable[[], None] | None, limit_s: float | None
    ) -> Answer | errors.ClientError:
        """Wait for the answer, or for the error that the child reports, and look after the child meanwhile.

        The child says nothing before the answer to an order that is done at once.
        """
        until_s = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
        silence_s = max(self._site.silence_s, START_S) if step in _NOT_OF_THE_USER else self._site.silence_s
        watched = _Step(step, silence_s, "FEDKEEPER_TRAINER_SILENCE_S", until_s)
        has_begun, said, files = False, *first
        while True:
            text = said.pop("facts", None)
            if said in ({"say": "done"}, {"say": "failed"}):
                contents = await answers.read(files, self._site.memory_mb << 20)
                facts = answers.facts_of(contents.pop("facts", b"") if text is None else text)
                if facts is None:
                    raise await _garbage(child, step)
                if said["say"] == "failed":
                    return answers.failure_of(facts)
                if on_training is not None and not has_begun:
                    on_training()
                return Answer(facts, contents)
            close(files)
            match said:
                case {"say": "training"}:
                    has_begun = True
                    if on_training is not None:
                        on_training()
                case {"say": "alive" | "taken"}:
                    pass
                case {"say": "ended", "code": int(code)}:
                    # Only the copy that did the order has ended; the trainer waits for the next one.
                    return await _died(child, watched, code)
                case _:
                    raise await _garbage(child, step)
            said, files = await self._next(child, watched)

    async def _next(self, child: Child, step: "_Step") -> Packet:
        """Return the next packet about the order, without its name.

        Raise if the child ends, uses too much memory or time, or says nothing for too long.
        """
        clock = asyncio.get_running_loop().time
        silent_until_s = clock() + step.silence_s
        while True:
            if clock() > child.look_s:
                child.look_s = clock() + WATCH_S
                await self._look_at_memory(child, step.name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(child.look_s):
                    packet = await child.packets.get()
                if packet is None:
                    raise await self._ended(child, step)
                said, files = packet
                if said.pop("order", None) == child.order:
                    return said, files
                close(files)
            if (code := child.running.process.returncode) is not None and child.packets.empty():
                raise await _died(child, step, code)
            if step.until_s is not None and clock() > step.until_s:
                raise LeaseOver("", 0.0)
            if clock() > silent_until_s:
                limit = f"{step.silence_s:g} s" + (f" ({step.setting})" if step.setting else "")
                raise LimitExceeded(f"{step.name} took longer than {limit}", await child.lines())

    async def _look_at_memory(self, child: Child, step: str) -> None:
        limit_mb = self._site.memory_mb
        used_mb = await asyncio.to_thread(group.memory_bytes, child.running.process.pid, limit_mb << 20) >> 20
        if used_mb > limit_mb:
            limit = f"more than {limit_mb} MiB (FEDKEEPER_TRAINER_MEMORY_MB)"
            raise LimitExceeded(f"{step} used {used_mb} MiB, {limit}", await child.lines())

    async def _ended(self, child: Child, step: "_Step") -> TrainerDied:
        """Return the error for a channel that is closed or damaged."""
        if child.is_damaged:
            return await _garbage(child, step.name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                code = await child.running.process.wait()
            return await _died(child, step, code)
        return TrainerDied(f"the trainer closed its channel during {step.name}", await child.lines())


class _Step(NamedTuple):
    """What a child does, and how long it may take.

    Attributes:
        name: for messages.
        silence_s: longest time without a packet.
        setting: the variable that sets it; empty: it is fixed.
        until_s: the end of the order's time, by the event loop's clock; None: there is none.
        has_no_data: whether everything that the child may print is without data, because no code of the user's runs.
    """

    name: str
    silence_s: float
    setting: str = ""
    until_s: float | None = None
    has_no_data: bool = False


_START: Final = _Step("its start", START_S, has_no_data=True)
_TAKE: Final = _Step("the handing over of an order", TAKE_S)


async def _died(child: Child, step: _Step, code: int) -> TrainerDied:
    sentence, lines = f"the process {processes.describe_exit(code)} during {step.name}", await child.lines()
    if step.has_no_data and lines:
        return TrainerDied(f"{sentence}: {lines[-1]}", lines[:-1], retryable=code < 0)
    return TrainerDied(sentence, lines, retryable=code < 0)


async def _garbage(child: Child, step: str) -> TrainerDied:
    return TrainerDied(f"the trainer wrote garbage to its worker during {step}", await child.lines())


def _step(order: Order | Look | Together) -> str:
    if isinstance(order, Look):
        return "the look at the data"
    if isinstance(order, Build):
        return "the construction of the model"
    return "the training" if isinstance(order, Train | Together) else "the evaluation of the model"
