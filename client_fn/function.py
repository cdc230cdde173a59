"""The function: what a client does with a round's task, top to bottom."""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from torch import Tensor, nn

from broker import topics
from broker.base import Receipt
from broker.errors import Disconnected
from broker.messages.round import BlobRef, RoundTask
from broker.messages.update import UpdateHeader
from client_fn.cache import keep
from client_fn.data import shards
from client_fn.errors import BadSettings, BaseMismatch, BlobMissing, DataMissing
from client_fn.exchange import Exchange
from client_fn.lease import Lease
from client_fn.training import loop, models, optimizers, tensors
from client_fn.training.loop import Samples

T = TypeVar("T")

RETRY_S: Final = 1.0
"""Until an update is published again; the broker's own patience was over by then."""

MODELS_KEPT: Final = 2
MODULES_KEPT: Final = 2
SHARDS_KEPT: Final = 16
"""An instance of a FaaS platform serves one client; a process on one machine may serve many."""


@dataclass
class Warm:
    """What an instance of the function keeps from one task to the next.

    Attributes:
        models: tensors of the global models fetched last, by digest.
        shards: samples by `data_loc`.
        modules: by `models.key`; weights are loaded into them for every task.
        device: what this instance trains on, as torch names it; FEDKEEPER_DEVICE, if the environment has it.
        turn: held while a task trains: torch's random numbers and these modules are for one at a time.
    """

    models: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shards: dict[str, Samples] = field(default_factory=dict)
    modules: dict[bytes, nn.Module] = field(default_factory=dict)
    device: str = field(default_factory=lambda: os.environ.get("FEDKEEPER_DEVICE") or "cpu")
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Published(NamedTuple):
    """The update's header, and the broker's receipt: `stored` is False if there was an update already."""

    header: UpdateHeader
    receipt: Receipt


class _Answer(NamedTuple):
    header: UpdateHeader
    update: bytes
    state: bytes | None


def _nothing() -> None:
    """Nobody wants to know."""


async def handle(
    task: RoundTask,
    broker: Exchange,
    warm: Warm,
    *,
    attempt: int,
    on_training: Callable[[], None] = _nothing,
    on_trained: Callable[[], None] = _nothing,
    clock: Callable[[], float] = time.time,
) -> Published:
    """Train on a client's shard from the global model, and publish the update before the deadline or not at all.

    With `dry` hyper-parameters everything is done but training: the update is the global model as it is. Where such
    a task names no data either, it counts as one sample.

    Args:
        task: what to do.
        broker: where the model is, and the update goes.
        warm: of this instance; tasks handled at the same time train one after the other.
        attempt: which invocation for this task this is, from 1.
        on_training: called when model and data are there and training begins.
        on_trained: called when the next task may have its turn; the update is yet to be published.
        clock: seconds since the epoch.

    Raises:
        LeaseOver: the deadline has come; training ends within a batch, and nothing is published.
        ClientError: another of `client_fn.errors`.
        BrokerError: the broker refused, or could not be reached before the training; an update waits for it.
    """
    lease = Lease(task, clock)
    async with lease.held():
        async with warm.turn:
            answer = await _answer(task, broker, warm, lease, attempt=attempt, on_training=on_training)
        on_trained()
        while True:
            lease.check()
            try:
                return Published(answer.header, await _publish(task, answer, broker, attempt))
            except Disconnected as exc:
                # What is trained is kept until the link returns, or the time is over.
                _log_waiting(task, exc)
                await asyncio.sleep(RETRY_S)


def _log_waiting(task: RoundTask, exc: Disconnected) -> None:
    # Every cold start would pay for its import.
    import structlog

    structlog.get_logger(__name__).warning("the update waits for the broker", task=task.id, error=str(exc))


async def _publish(task: RoundTask, answer: _Answer, broker: Exchange, attempt: int) -> Receipt:
    if answer.header.state and answer.state:
        # Before the update: once that counts, the next task names this state.
        await broker.put(answer.header.state.topic, answer.state)
    return await broker.publish(topics.update(task.job, task.round, task.client_id, attempt), answer.update)


async def _answer(
    task: RoundTask, broker: Exchange, warm: Warm, lease: Lease, *, attempt: int, on_training: Callable[[], None]
) -> _Answer:
    seconds: dict[str, float] = {}
    fetched = 0 if task.model.sha256 in warm.models else task.model.bytes
    with _timed(seconds, "fetch"):
        base = await _base(task.model, broker, warm)
        state = await _fetched(task.state, broker) if task.state else None
    with _timed(seconds, "data"):
        data = await _data(task, warm)
    with _timed(seconds, "build"):
        module = await _in_thread(lambda: _loaded(task, base, warm), lease)
    on_training()
    with _timed(seconds, "train"):
        metrics, new_state = await _in_thread(lambda: _trained(task, module, data, state, lease), lease)
    header = UpdateHeader(
        job=task.job,
        round=task.round,
        attempt=attempt,
        client=task.client_id,
        samples=len(data[1]) if data else 1,
        base=task.model.sha256,
        token=task.token,
        metrics=metrics,
        state=None if new_state is None else _state_ref(task, attempt, new_state),
        fetched=fetched + len(state or b""),
        seconds=seconds,
    )
    update = await asyncio.to_thread(tensors.to_bytes, tensors.trained_of(module), header.to_metadata())
    return _Answer(header, update, new_state)


async def _base(ref: BlobRef, broker: Exchange, warm: Warm) -> dict[str, Tensor]:
    """The global model's tensors; each model is fetched once, however many tasks start from it."""
    base = warm.models.get(ref.sha256)
    if base is None:
        base = await asyncio.to_thread(tensors.from_bytes, await _fetched(ref, broker))
    keep(warm.models, ref.sha256, base, most=MODELS_KEPT)
    return base


async def _fetched(ref: BlobRef, broker: Exchange) -> bytes:
    value = await broker.get(ref.topic)
    if value is None:
        raise BlobMissing(ref.topic)
    digest = await asyncio.to_thread(_digest, value.payload)
    if digest != ref.sha256:
        raise BaseMismatch(ref.topic, ref.sha256, digest)
    return value.payload


async def _data(task: RoundTask, warm: Warm) -> Samples | None:
    """The client's samples; None where a dry round has none."""
    if not task.data_loc:
        if _is_dry(task):
            return None
        raise DataMissing("shard", "no place", "register the client with the data_loc of its shard")
    data = warm.shards.get(task.data_loc)
    if data is None:
        data = await asyncio.to_thread(shards.read, task.data_loc)
    keep(warm.shards, task.data_loc, data, most=SHARDS_KEPT)
    return data


def _loaded(task: RoundTask, base: dict[str, Tensor], warm: Warm) -> nn.Module:
    """The module with the global model's weights; those it was built with are overwritten, whatever the seed."""
    key = models.key(task.model_configuration)
    module = warm.modules.get(key)
    if module is None:
        module = placed(models.build(task.model_configuration, seed=0), warm.device)
    tensors.load(module, base)
    keep(warm.modules, key, module, most=MODULES_KEPT)
    return module


def placed(module: nn.Module, device: str) -> nn.Module:
    """The module on the device that it shall be trained on.

    Raises:
        BadSettings: this machine, or this build of torch, has no such device.
    """
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as exc:
        raise BadSettings("FEDKEEPER_DEVICE", f"{device!r} can't be used here: {exc}") from exc


def _trained(
    task: RoundTask, module: nn.Module, data: Samples | None, state: bytes | None, lease: Lease
) -> tuple[dict[str, float], bytes | None]:
    """Train the module in place; returns the metrics, and the optimizer's state if the job carries it."""
    if data is None or _is_dry(task):
        return {}, None
    how = task.training_hyperparameters
    optimizer = optimizers.make(how, module.parameters())
    if state is not None:
        optimizers.load_state(optimizer, state)
    metrics = loop.train(
        module,
        optimizer,
        data,
        batch_size=how.batch_size,
        epochs=how.local_epochs,
        seed=task.seed,
        before_batch=lease.check,
    )
    return metrics, optimizers.state_to_bytes(optimizer) if how.optimizer_state == "carry" else None


def _is_dry(task: RoundTask) -> bool:
    return task.training_hyperparameters.dry


def _state_ref(task: RoundTask, attempt: int, state: bytes) -> BlobRef:
    topic = topics.optimizer_state(task.job, task.client_id, task.round, attempt)
    return BlobRef(topic, _digest(state), len(state))


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


async def _in_thread(work: Callable[[], T], lease: Lease) -> T:
    """Work in another thread, so that the connection to the broker lives.

    A thread can't be cancelled, and must not go on with a module that the next task trains. So its lease is ended,
    and it is waited for: at most a batch.
    """
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        lease.end()
        await asyncio.wait([running])
        running.exception()
        raise
    return running.result()


@contextlib.contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - begin
