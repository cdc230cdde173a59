"""The function: it trains one client for one round and publishes the update.

`handle` shows all steps in order: lease, fetch, data, train, publish. The training itself is done by the trainer, a
child process: the user's code never runs in this one, and this one needs no torch.
"""

import asyncio
import functools
import hashlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from broker import topics
from broker.deliveries import Receipt
from broker.errors import BadTopic, Disconnected, StorageFull, StoreChanged
from broker.messages import tensor_header
from broker.messages.errors import BadTensors
from broker.messages.round import BlobRef, RoundTask
from broker.messages.strategy import name_of
from broker.messages.update import UpdateHeader, checked_processor
from client_fn import judged, state_store
from client_fn.cache import keep
from client_fn.code import named
from client_fn.code.named import Names
from client_fn.data.shard_cache import Shard, ShardCache
from client_fn.errors import BlobMissing, DataMissing, LeaseOver, TrainerDied
from client_fn.exchange import Exchange
from client_fn.lease import Lease
from client_fn.site import Site
from client_fn.task_order import order_of
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers
from client_fn.training import orders

if TYPE_CHECKING:
    from client_fn.gathering import Gathering

T = TypeVar("T")

RETRY_S: Final = 1.0
"""Pause between two attempts to publish an update. The broker has retried for some time before each failure."""

COPIED_AT_ONCE: Final = 16 << 20
"""A copy of so many bytes takes no longer than a few milliseconds. A thread would take as long for a small one."""

MODELS_KEPT: Final = 2
METRICS_KEPT: Final = 100


@dataclass
class WarmState:
    """State that an instance keeps from one task to the next. Nothing of it depends on an earlier task.

    Attributes:
        trainers: the processes that train.
        site: the site's settings.
        shards: the shards read last.
        models: safetensors files of the global models used last, by SHA-256 digest.
        along: safetensors files that strategies sent along last, by SHA-256 digest.
        frozen: safetensors files of the tensors that no client trains, used last, by SHA-256 digest.
        training_lock: held from a task's first step to the end of its training.
        gathering: trains tasks together that wait for the trainer, instead of one after the other; None: it does not.
    """

    trainers: Trainers
    site: Site
    shards: ShardCache
    models: dict[str, SharedBytes] = field(default_factory=dict)
    along: dict[str, SharedBytes] = field(default_factory=dict)
    frozen: dict[str, SharedBytes] = field(default_factory=dict)
    training_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    gathering: "Gathering | None" = None


class Published(NamedTuple):
    """A published update.

    Attributes:
        header: everything about the update except its tensors.
        receipt: the broker's; its `stored` is False if the topic held an update already.
    """

    header: UpdateHeader
    receipt: Receipt


class _Prepared(NamedTuple):
    """What a task needs for its training.

    Attributes:
        own: where the client's personal layers are kept; None: it has none.
        inputs: files for the trainer, by name.
        fetched: number of bytes that were fetched for them.
        shard: the samples; None: there are none.
    """

    own: state_store.StateStore | None
    inputs: dict[str, SharedBytes]
    fetched: int
    shard: Shard | None


class _Update(NamedTuple):
    header: UpdateHeader
    payload: bytes
    states: dict[str, bytes]


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

    If the hyper-parameters say `dry`, every step but the training runs, and the update is noise. A dry task without
    data counts as one sample.

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
        LeaseOver: the deadline has passed; the trainer is ended, and nothing is published.
        NotAllowed: the site's operator did not allow the model, or the place of the data.
        CodeDiffers: the server holds other code of the user's than this site.
        DataMissing: the task names no shard, or the shard is not there.
        BadData: the shard is invalid or can't be read.
        UserCodeFailed: the model can't be built or trained, or the global model's weights do not match it.
        TrainerDied: the trainer ended, or used too much memory or time.
        BadSettings: the training device can't be used.
        PersonalMissing: the client's personal layers that the task names are not there.
        PersonalNotKept: the client's personal layers can't be kept.
        BlobMissing: the broker does not have the model, a state of the client's, or what the strategy sends along.
        BrokerError: the broker refused a call, or was out of reach before the training.
    """
    lease = Lease(task, clock)
    seconds: dict[str, float] = {}
    async with lease.timeout():
        prepare = functools.partial(_prepare, task, broker, warm, seconds)
        if warm.gathering is None:
            async with warm.training_lock:
                prepared = await prepare()
                answer = await _train(task, prepared, warm, lease, on_training=on_training)
        else:
            train = functools.partial(_train_with_others, task, prepare, warm, lease, warm.gathering)
            prepared, answer = await train(on_training=on_training)
        if on_trained:
            on_trained()
        own, states = prepared.own, _states(answer)
        header = _header(task, attempt, answer, prepared.shard, states)
        header = msgspec.structs.replace(
            header,
            fetched=prepared.fetched,
            seconds=seconds | header.seconds,
            metrics_scope=warm.site.metrics,
            # Written before the update is published: once that counts, the next task names the file.
            personal="" if own is None else await asyncio.to_thread(own.keep, answer, attempt),
        )
        payload = await _payload(answer, header)
        update = _Update(header, payload, states)
        return Published(header, await _publish(update, broker, lease, task.id))


async def _prepare(task: RoundTask, broker: Exchange, warm: WarmState, seconds: dict[str, float]) -> _Prepared:
    """Check what a task names, and get all that its training needs."""
    await warm.trainers.admit(_names(task))
    own = None
    if task.model_configuration.personal:
        own = await asyncio.to_thread(state_store.prepare, task, warm.site)
    inputs, fetched = await _timed(seconds, "fetch", _fetch(task, broker, warm))
    shard = await _timed(seconds, "data", _read_shard(task, warm))
    if own is not None and (layers := await asyncio.to_thread(own.read)):
        inputs[orders.PERSONAL] = SharedBytes(layers)
    if shard is not None and shard.memory is not None:
        inputs[orders.SHARD] = shard.memory
    return _Prepared(own, inputs, fetched, shard)


async def _fetch(task: RoundTask, broker: Exchange, warm: WarmState) -> tuple[dict[str, SharedBytes], int]:
    """Return the trainer's inputs that the broker has, and the number of bytes fetched for them."""
    weights, fetched = await _get_kept(task.model, warm.models, broker)
    inputs = {"weights": weights}
    if task.frozen is not None:
        inputs[orders.FROZEN], size = await _get_kept(task.frozen, warm.frozen, broker)
        fetched += size
    if task.along is not None:
        inputs[orders.ALONG], size = await _get_kept(task.along, warm.along, broker)
        fetched += size
    for name, ref in task.initial_states.items():
        state = SharedBytes(await _get_blob(ref, broker))
        inputs[f"{orders.STATE}{name}"] = state
        fetched += state.size
    return inputs, fetched


async def _get_kept(ref: BlobRef, kept: dict[str, SharedBytes], broker: Exchange) -> tuple[SharedBytes, int]:
    """Return a blob that clients share, and the number of bytes fetched: 0 if an earlier task has fetched it."""
    blob, fetched = kept.get(ref.sha256), 0
    if blob is None:
        blob, fetched = SharedBytes(await _get_blob(ref, broker)), ref.bytes
    keep(kept, ref.sha256, blob, limit=MODELS_KEPT)
    return blob, fetched


async def _get_blob(ref: BlobRef, broker: Exchange) -> bytes:
    value = await broker.get(ref.topic)
    if value is None:
        raise BlobMissing(ref.topic, f"the broker holds nothing at {ref.topic}")
    digest = await asyncio.to_thread(_sha256, value.payload)
    if digest != ref.sha256:
        raise BlobMissing(ref.topic, f"{ref.topic} has SHA-256 {digest}, the task announces {ref.sha256}")
    return value.payload


async def _read_shard(task: RoundTask, warm: WarmState) -> Shard | None:
    """Return the client's shard, or None for a dry task without data."""
    if task.data_loc:
        return await asyncio.to_thread(warm.shards.read, task.data_loc, task.data.format)
    if task.training_hyperparameters.dry:
        return None
    raise DataMissing("shard", "no place", "register the client with the data_loc of its shard")


async def _train(
    task: RoundTask, prepared: _Prepared, warm: WarmState, lease: Lease, *, on_training: Callable[[], None] | None
) -> Answer:
    """Let the trainer do what the task is for, and raise LeaseOver with the task's name if time runs out."""
    order, left_s = order_of(task, prepared.shard, warm.site, lease.left_s), lease.left_s
    try:
        return await warm.trainers.do(_names(task), order, prepared.inputs, on_training=on_training, limit_s=left_s)
    except LeaseOver:
        raise LeaseOver(task.id, task.deadline_s) from None


async def _train_with_others(
    task: RoundTask,
    prepare: Callable[[], Awaitable[_Prepared]],
    warm: WarmState,
    lease: Lease,
    gathering: "Gathering",
    *,
    on_training: Callable[[], None] | None,
) -> tuple[_Prepared, Answer]:
    """Prepare and train a task, in one program with tasks that are like this one, if there are any."""
    # Imported here because every cold start of a function would pay for it.
    from client_fn import alike
    from client_fn.gathering import Ready

    keys = alike.keys_of(task, order_of(task, None, warm.site, lease.left_s))
    async with gathering.ahead.place("" if keys is None else keys.job) as place:
        with gathering.expecting():
            prepared = await prepare()
        gathering.ahead.fill(place, alike.size_of(prepared.inputs))
        order = order_of(task, prepared.shard, warm.site, lease.left_s)
        ready = Ready(
            keys=alike.keys_of(task, order),
            names=_names(task),
            order=order,
            inputs=prepared.inputs,
            left_s=lambda: lease.left_s,
            on_training=on_training,
            alone=lambda: _train(task, prepared, warm, lease, on_training=on_training),
        )
        return prepared, await gathering.train(ready)


def _names(task: RoundTask) -> Names:
    return named.names(task.model_configuration, task.learner, task.training_hyperparameters, task.evaluation)


def _states(answer: Answer) -> dict[str, bytes]:
    """Return the client's states by name. The user's code may have given them any names."""
    files = answer.files.items()
    named = {file.removeprefix(orders.STATE): content for file, content in files if file.startswith(orders.STATE)}
    try:
        return {topics.checked_id(name): named[name] for name in sorted(named) if named[name]}
    except BadTopic as exc:
        raise TrainerDied(f"the trainer's answer holds a state of a wrong name: {exc}") from exc


def _samples(task: RoundTask, answer: Answer, shard: Shard | None) -> int:
    """Return how many samples were used. The user's code may have told any number, so it is checked and bounded."""
    if task.training_hyperparameters.dry:
        return 1 if shard is None else shard.samples or 1
    samples = answer.facts.get("samples")
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise TrainerDied("the trainer's answer does not say how many samples it has used")
    return samples if shard is None or shard.samples is None else min(samples, shard.samples)


def _header(
    task: RoundTask, attempt: int, answer: Answer, shard: Shard | None, states: dict[str, bytes]
) -> UpdateHeader:
    topic = functools.partial(topics.client_state, task.job, task.client_id, task.round, attempt)
    found = judged.facts_of(answer, shard)
    return UpdateHeader(
        job=task.job,
        round=task.round,
        attempt=attempt,
        client=task.client_id,
        samples=found.judged if task.purpose == "evaluate" else _samples(task, answer, shard),
        base=task.model.sha256,
        token=task.token,
        metrics=_numbers(answer.facts.get("metrics")),
        states={name: BlobRef(topic(name), _sha256(state), len(state)) for name, state in states.items()},
        seconds=_numbers(answer.facts.get("seconds")),
        code=task.model_configuration.code,
        shard="" if shard is None else shard.digest,
        update=task.update,
        strategy=name_of(task.strategy),
        processor=checked_processor(answer.facts.get("processor")),
        **found._asdict(),
    )


def _numbers(table: Any) -> dict[str, float]:
    """Return the finite numbers of a table that the trainer has made; the user's code may have made anything of it."""
    if not isinstance(table, dict):
        return {}
    numbers = {str(name): value for name, value in table.items() if isinstance(value, int | float)}
    return dict([(name, value) for name, value in numbers.items() if math.isfinite(value)][:METRICS_KEPT])


async def _payload(answer: Answer, header: UpdateHeader) -> bytes:
    """Return the update to publish. A large one is copied in a thread."""
    if len(answer.files.get("update", b"")) <= COPIED_AT_ONCE:
        return _with_header(answer, header)
    return await asyncio.to_thread(_with_header, answer, header)


def _with_header(answer: Answer, header: UpdateHeader) -> bytes:
    """Return the trained tensors with the update's header. The trainer never sees the task's token."""
    try:
        return tensor_header.with_metadata(answer.files["update"], header.to_metadata())
    except (KeyError, BadTensors) as exc:
        raise TrainerDied(f"the trainer's answer holds no tensors: {exc}") from exc


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


async def _publish(update: _Update, broker: Exchange, lease: Lease, task_id: str) -> Receipt:
    """Publish the states and the update. While the broker is away or full, try again until the lease ends."""
    header = update.header
    while True:
        lease.check()
        try:
            # The states go first: once the update counts, the next task names them.
            for name, ref in header.states.items():
                await broker.put(ref.topic, update.states[name])
            topic = topics.update(header.job, header.round, header.client, header.attempt)
            return await broker.publish(topic, update.payload)
        except StoreChanged:
            raise  # this connection has ended; whoever invokes the function again knows what is there now
        except (Disconnected, StorageFull) as exc:
            # Imported here because every cold start would pay for it.
            from broker.support import loggers

            log = loggers.get_logger(__name__)
            log.warning("the update waits for the broker", task=task_id, error=str(exc))
            await asyncio.sleep(RETRY_S)


async def _timed(seconds: dict[str, float], step: str, work: Awaitable[T]) -> T:
    """Await a step and record how long it took."""
    begin_s = time.perf_counter()
    result = await work
    seconds[step] = time.perf_counter() - begin_s
    return result
