"""The function: it trains one client for one round and publishes the update.

`handle` shows all steps in order: lease, fetch, data, build, train, publish.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
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
from client_fn.errors import BadSettings, BlobMissing, DataMissing
from client_fn.exchange import Exchange
from client_fn.lease import Lease
from client_fn.training import loop, models, optimizers, tensors
from client_fn.training.loop import Samples

T = TypeVar("T")

RETRY_S: Final = 1.0
"""Pause between two attempts to publish an update. The broker has retried for some time before each failure."""

MODELS_KEPT: Final = 2
MODULES_KEPT: Final = 2
SHARDS_KEPT: Final = 16
"""An instance on a FaaS platform serves one client; a worker process on one machine may serve many."""


@dataclass
class WarmState:
    """State that an instance keeps from one task to the next.

    Attributes:
        models: tensors of the global models used last, by SHA-256 digest.
        shards: samples, by `data_loc`.
        modules: built modules, by `models.key`; every task loads its own weights into one.
        device: torch's name of the training device, from FEDKEEPER_DEVICE; the CPU by default.
        training_lock: held while a task trains, because all tasks share the modules and torch's random numbers.
    """

    models: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shards: dict[str, Samples] = field(default_factory=dict)
    modules: dict[bytes, nn.Module] = field(default_factory=dict)
    device: str = field(default_factory=lambda: os.environ.get("FEDKEEPER_DEVICE") or "cpu")
    training_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Published(NamedTuple):
    """A published update.

    Attributes:
        header: everything about the update except its tensors.
        receipt: the broker's; its `stored` is False if the topic held an update already.
    """

    header: UpdateHeader
    receipt: Receipt


class _Update(NamedTuple):
    header: UpdateHeader
    payload: bytes
    state: bytes | None


async def handle(
    task: RoundTask,
    broker: Exchange,
    warm: WarmState,
    *,
    attempt: int,
    on_training: Callable[[], None] | None = None,
    on_trained: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Published:
    """Train on a client's shard, starting from the global model, and publish the update before the deadline.

    If the hyper-parameters say `dry`, every step but the training runs, and the update is the unchanged global model.
    A dry task without data counts as one sample.

    Args:
        task: the round's task for this client.
        broker: holds the model and receives the update.
        warm: the instance's state. Concurrent tasks train one after the other.
        attempt: number of this invocation of the task, from 1.
        on_training: called when model and data are loaded and training begins.
        on_trained: called before the update is published, when the next task may train.
        clock: returns seconds since the epoch.

    Returns:
        The update's header and the broker's receipt.

    Raises:
        LeaseOver: the deadline has passed; training stops within one batch, and nothing is published.
        DataMissing: the task names no shard, or the shard is not there.
        BadData: the shard is invalid or can't be read.
        BadModel: the model can't be built, or the global model's weights do not match it.
        BadSettings: the training device can't be used.
        BlobMissing: the broker does not have the model or the optimizer state.
        BadTensors: the model or the optimizer state is not a safetensors file.
        TrainingFailed: the model can't be trained on this data.
        BrokerError: the broker refused a call, or was out of reach before the training.
    """
    lease = Lease(task, clock)
    seconds: dict[str, float] = {}
    async with lease.timeout():
        async with warm.training_lock:
            weights, state, fetched = await _timed(seconds, "fetch", _fetch(task, broker, warm))
            samples = await _timed(seconds, "data", _load_samples(task, warm))
            module = await _timed(seconds, "build", _in_thread(lambda: _build_module(task, weights, warm), lease))
            if on_training:
                on_training()
            training = _in_thread(lambda: _train(task, module, samples, state, lease), lease)
            metrics, new_state = await _timed(seconds, "train", training)
            state_topic = topics.optimizer_state(task.job, task.client_id, task.round, attempt)
            header = UpdateHeader(
                job=task.job,
                round=task.round,
                attempt=attempt,
                client=task.client_id,
                samples=len(samples[1]) if samples else 1,
                base=task.model.sha256,
                token=task.token,
                metrics=metrics,
                state=BlobRef(state_topic, _sha256(new_state), len(new_state)) if new_state else None,
                fetched=fetched,
                seconds=seconds,
            )
            payload = await asyncio.to_thread(tensors.to_bytes, tensors.trained_of(module), header.to_metadata())
        if on_trained:
            on_trained()
        return Published(header, await _publish(_Update(header, payload, new_state), broker, lease, task.id))


async def _fetch(task: RoundTask, broker: Exchange, warm: WarmState) -> tuple[dict[str, Tensor], bytes | None, int]:
    """Return the global model's tensors, the optimizer state, and the number of bytes fetched for them."""
    fetched = 0
    weights = warm.models.get(task.model.sha256)
    if weights is None:
        weights = await asyncio.to_thread(tensors.from_bytes, await _get_blob(task.model, broker))
        fetched = task.model.bytes
    keep(warm.models, task.model.sha256, weights, limit=MODELS_KEPT)
    state = await _get_blob(task.state, broker) if task.state else None
    return weights, state, fetched + len(state or b"")


async def _get_blob(ref: BlobRef, broker: Exchange) -> bytes:
    value = await broker.get(ref.topic)
    if value is None:
        raise BlobMissing(ref.topic, f"the broker holds nothing at {ref.topic}")
    digest = await asyncio.to_thread(_sha256, value.payload)
    if digest != ref.sha256:
        raise BlobMissing(ref.topic, f"{ref.topic} has SHA-256 {digest}, the task announces {ref.sha256}")
    return value.payload


async def _load_samples(task: RoundTask, warm: WarmState) -> Samples | None:
    """Return the client's samples, or None for a dry task without data."""
    if not task.data_loc:
        if task.training_hyperparameters.dry:
            return None
        raise DataMissing("shard", "no place", "register the client with the data_loc of its shard")
    samples = warm.shards.get(task.data_loc)
    if samples is None:
        samples = await asyncio.to_thread(shards.read, task.data_loc)
    keep(warm.shards, task.data_loc, samples, limit=SHARDS_KEPT)
    return samples


def _build_module(task: RoundTask, weights: dict[str, Tensor], warm: WarmState) -> nn.Module:
    """Return the module with the global model's weights. They replace all initial ones, so any seed will do."""
    key = models.key(task.model_configuration)
    module = warm.modules.get(key)
    if module is None:
        module = to_device(models.build(task.model_configuration, seed=0), warm.device)
    tensors.load(module, weights)
    keep(warm.modules, key, module, limit=MODULES_KEPT)
    return module


def to_device(module: nn.Module, device: str) -> nn.Module:
    """Move a module to its training device.

    Args:
        module: moved in place.
        device: torch's name of the device.

    Raises:
        BadSettings: this machine, or this build of torch, has no such device.
    """
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as exc:
        raise BadSettings("FEDKEEPER_DEVICE", f"{device!r} can't be used here: {exc}") from exc


def _train(
    task: RoundTask, module: nn.Module, samples: Samples | None, state: bytes | None, lease: Lease
) -> tuple[dict[str, float], bytes | None]:
    """Train the module in place. Return the metrics, and the optimizer state if the job carries it over."""
    training = task.training_hyperparameters
    if samples is None or training.dry:
        return {}, None
    optimizer = optimizers.make(training, module.parameters())
    if state is not None:
        optimizers.load_state(optimizer, state)
    metrics = loop.train(
        module,
        optimizer,
        samples,
        batch_size=training.batch_size,
        epochs=training.local_epochs,
        seed=task.seed,
        before_batch=lease.check,
    )
    return metrics, optimizers.state_to_bytes(optimizer) if training.optimizer_state == "carry" else None


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


async def _publish(update: _Update, broker: Exchange, lease: Lease, task_id: str) -> Receipt:
    """Publish the update. While the broker is away, keep it and try again until the lease ends."""
    header = update.header
    while True:
        lease.check()
        try:
            if header.state and update.state:
                # The state goes first: once the update counts, the next task names this state.
                await broker.put(header.state.topic, update.state)
            topic = topics.update(header.job, header.round, header.client, header.attempt)
            return await broker.publish(topic, update.payload)
        except Disconnected as exc:
            # Imported here because every cold start would pay for it.
            import structlog

            log = structlog.get_logger(__name__)
            log.warning("the update waits for the broker", task=task_id, error=str(exc))
            await asyncio.sleep(RETRY_S)


async def _in_thread(work: Callable[[], T], lease: Lease) -> T:
    """Run blocking work in a thread, so that the event loop keeps the broker connection alive.

    A thread can't be cancelled, and must not use the module while the next task trains it. On cancellation this ends
    the lease, which stops the training within one batch, and waits for the thread.
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


async def _timed(seconds: dict[str, float], step: str, work: Awaitable[T]) -> T:
    """Await a step and record how long it took."""
    begin_s = time.perf_counter()
    result = await work
    seconds[step] = time.perf_counter() - begin_s
    return result
