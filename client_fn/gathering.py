"""Gathers tasks that wait for the trainer, and lets it train those that are alike in one program.

One task after the other has its turn. The one that has it takes others along that are like it; if that fails, each of
them is trained alone, so that no client fails because of another one.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from broker.support import loggers
from client_fn import alike
from client_fn.ahead import Ahead
from client_fn.alike import Keys
from client_fn.cache import keep
from client_fn.code.named import Names
from client_fn.errors import OF_MEMORY, ClientError, LeaseOver, LimitExceeded, TrainerDied, UserCodeFailed
from client_fn.site import Site
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers
from client_fn.training.orders import Train

WAIT_S: Final = 0.005
"""How long a task that could take others along waits for the next one. Seconds."""

PREPARING_S: Final = 0.25
"""How long it waits in all while the worker fetches the inputs of others. Seconds."""

ANSWERS_S: Final = 5.0
"""How long before the deadline a training of several clients ends, so that those that have made all steps still give
their answers; at most a quarter of the time. Seconds."""

JOBS_KEPT: Final = 16

log = loggers.get_logger(__name__)


class Ready(NamedTuple):
    """A task whose inputs are here.

    Attributes:
        keys: what tasks must have in common to be trained with it; None: it is trained alone.
        names: the code that its job names.
        order: what to do; used only if there are keys.
        inputs: files by name.
        left_s: returns the seconds until the task's deadline.
        on_training: called when the training begins.
        alone: trains it alone.
    """

    keys: Keys | None
    names: Names
    order: object
    inputs: Mapping[str, SharedBytes]
    left_s: Callable[[], float]
    on_training: Callable[[], None] | None
    alone: Callable[[], Awaitable[Answer]]


class _Turn(Enum):
    """What a task gets that may now use the trainer."""

    YOURS = "yours"


@dataclass(eq=False)
class _Waiting:
    """A task that waits for its turn, or for the answer that another one brings along.

    Attributes:
        ready: the task.
        result: the turn, or the answer. It is done at once when the task is given up, before the task itself runs.
        is_alone: whether it must be trained alone.
    """

    ready: Ready
    result: asyncio.Future[Answer | _Turn] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_alone: bool = False

    @property
    def keys(self) -> Keys | None:
        """Implements `alike.HasKeys`."""
        return None if self.is_alone else self.ready.keys


class Gathering:
    """The tasks of a worker that wait for its trainer.

    Args:
        trainers: the trainers.
        most: how many clients may be trained together, from 2.
        memory_mb: what a trainer may use, in MiB.
        graphs: whether a step may be recorded as a CUDA graph.

    Attributes:
        ahead: the tasks that are prepared. Those that are trained one by one are not prepared all at once.
    """

    def __init__(self, trainers: Trainers, most: int, memory_mb: int, *, graphs: bool = True) -> None:
        self.ahead = Ahead(memory_mb, self._most_of)
        self._trainers = trainers
        self._most = most
        self._memory_mb = memory_mb
        self._graphs = graphs
        self._waiting: list[_Waiting] = []
        self._is_busy = False
        self._expected = 0
        self._changed = asyncio.Event()
        self._limits: dict[str, int] = {}
        self._unrecorded: dict[str, bool] = {}

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Say for a block that a task will wait here soon."""
        self._expected += 1
        self._changed.set()
        try:
            yield
        finally:
            self._expected -= 1
            self._changed.set()

    async def train(self, ready: Ready) -> Answer:
        """Train a task when it is its turn, alone or with others.

        Args:
            ready: the task.

        Raises:
            ClientError: the task, trained alone, fails.
        """
        mine = _Waiting(ready)
        self._waiting.append(mine)
        self._changed.set()
        if not self._is_busy:
            self._give_turn()
        try:
            result = await mine.result
        except asyncio.CancelledError:
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not mine.result.cancelled() and mine.result.result() is _Turn.YOURS:
                self._give_turn()
            raise
        if isinstance(result, Answer):
            return result
        try:
            return await self._trained(mine) or await ready.alone()
        finally:
            self._give_turn()

    def _give_turn(self) -> None:
        """Give the turn to the task that waits longest: then one has it, or none waits and `_is_busy` is false."""
        # One that is being given up may still be in the list: its future is cancelled before it can take itself out.
        self._waiting = [waiting for waiting in self._waiting if not waiting.result.done()]
        self._is_busy = bool(self._waiting)
        if self._waiting:
            self._waiting.pop(0).result.set_result(_Turn.YOURS)

    async def _trained(self, mine: _Waiting) -> Answer | None:
        """Train a task with others, which get their answers. None: it must be trained alone."""
        group = await self._gathered(mine)
        if len(group) == 1 and not self._gains_alone(mine):
            return None
        others = group[1:]
        for other in others:
            self._waiting.remove(other)
        answers: list[Answer | None] = [None] * len(group)
        try:
            answers = await self._answers(group)
            for waiting, answer in zip(group, answers, strict=True):
                waiting.is_alone = answer is None
        finally:
            # If this task was cancelled, one of the others will take them along.
            self._waiting[:0] = [
                other
                for other, answer in zip(others, answers[1:], strict=True)
                if answer is None and not other.result.done()
            ]
        for other, answer in zip(others, answers[1:], strict=True):
            if answer is not None and not other.result.done():
                other.result.set_result(answer)
        return answers[0]

    async def _gathered(self, mine: _Waiting) -> list[_Waiting]:
        """Wait a little for tasks that are like this one, and return all of them."""
        most = 1 if mine.keys is None else self._most_of(mine.keys.job)
        if most == 1:
            return [mine]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PREPARING_S):
                while len(self._chosen(mine, most)) < most:
                    self._changed.clear()
                    async with asyncio.timeout(None if self._expected else WAIT_S):
                        await self._changed.wait()
        return self._chosen(mine, most)

    def _chosen(self, mine: _Waiting, most: int) -> list[_Waiting]:
        """Return this task and those that can be trained with it, without those that are being given up."""
        chosen = alike.choose(mine, [other for other in self._waiting if not other.result.done()], most)
        return chosen[: max(1, alike.how_many_fit([waiting.ready.inputs for waiting in chosen]))]

    async def _answers(self, group: list[_Waiting]) -> list[Answer | None]:
        """Return the answers of tasks that were trained together; None for those that must be trained alone."""
        try:
            answer = await self._answer(group)
        except ClientError as exc:
            self._limit(group, len(group) // 2 if _is_of_size(exc) else 1, str(exc))
            self._record_no_more(group, str(exc))
            return [None] * len(group)
        except Exception as exc:
            # The outermost loop of several tasks: an error of ours must not fail one client after the other.
            log.exception("clients can't be trained together because of an error of ours", clients=len(group))
            self._limit(group, 1, repr(exc))
            return [None] * len(group)
        found = alike.answers_of(answer, len(group))
        reasons = {each for each in found if isinstance(each, str)}
        if unrecorded := answer.facts.get("unrecorded"):
            self._record_no_more(group, str(unrecorded))
        if fewer := answer.facts.get("fewer"):
            self._limit(group, len(group) // 2, str(fewer))
        elif len(reasons) == 1 and not any(isinstance(each, Answer) for each in found):
            self._limit(group, 1, reasons.pop())
        elif reasons:
            log.debug("clients are trained one by one", clients=len(reasons), reasons=sorted(reasons))
        return [each if isinstance(each, Answer) else None for each in found]

    async def _answer(self, group: list[_Waiting]) -> Answer:
        """Return the trainer's answer to the order for several clients."""
        left_s = min(waiting.ready.left_s() for waiting in group)
        end_s = left_s if len(group) == 1 else left_s - min(ANSWERS_S, left_s / 4)
        members = [
            (waiting.ready.order._replace(left_s=end_s), waiting.ready.inputs)
            for waiting in group
            if isinstance(waiting.ready.order, Train)
        ]
        order, files = alike.order_for(members, self._memory_mb, graph=self._may_record(group))

        def on_training() -> None:
            for waiting in group:
                if waiting.ready.on_training is not None:
                    waiting.ready.on_training()

        names = group[0].ready.names
        return await self._trainers.do(names, order, files, on_training=on_training, limit_s=left_s)

    def _most_of(self, job: str) -> int:
        """Return how many clients of a job may be trained together."""
        return self._limits.get(job, self._most) if job else 1

    def _limit(self, group: list[_Waiting], most: int, reason: str) -> None:
        """Keep in mind how many clients of a job may be trained together; 1: one by one."""
        if len(group) == 1:  # this tells nothing of others
            self._record_no_more(group, reason)
            return
        log.debug("fewer clients of this job are trained together", clients=len(group), from_now=most, reason=reason)
        if (keys := group[0].ready.keys) is not None:
            keep(self._limits, keys.job, most, limit=JOBS_KEPT)

    def _gains_alone(self, mine: _Waiting) -> bool:
        """Return whether a client without others is quicker in their program: only there steps are recorded."""
        keys, order = mine.keys, mine.ready.order
        is_on_gpu = isinstance(order, Train) and order.device.startswith("cuda")
        return is_on_gpu and keys is not None and self._most_of(keys.job) > 1 and self._may_record([mine])

    def _may_record(self, group: list[_Waiting]) -> bool:
        """Return whether a step may be recorded as a CUDA graph."""
        keys = group[0].ready.keys
        return self._graphs and keys is not None and keys.job not in self._unrecorded

    def _record_no_more(self, group: list[_Waiting], reason: str) -> None:
        """Keep in mind that no step of a job is recorded: a record has failed, or may be why all has."""
        if self._may_record(group) and (keys := group[0].ready.keys) is not None:
            log.debug("no step of this job is recorded from now on", clients=len(group), reason=reason)
            keep(self._unrecorded, keys.job, True, limit=JOBS_KEPT)


def make(trainers: Trainers, site: Site) -> Gathering | None:
    """Return what gathers the tasks of a site's worker; None: it trains them one by one.

    Args:
        trainers: the trainers.
        site: the site's settings.
    """
    if site.most_together == 1:
        return None
    return Gathering(trainers, site.most_together, site.memory_mb, graphs=site.graphs)


def _is_of_size(exc: ClientError) -> bool:
    """Return whether fewer clients may succeed. A signal may be the kernel's, which ends who uses too much memory."""
    if isinstance(exc, UserCodeFailed):
        return exc.cause in OF_MEMORY
    return isinstance(exc, LeaseOver | LimitExceeded) or (isinstance(exc, TrainerDied) and exc.retryable)
