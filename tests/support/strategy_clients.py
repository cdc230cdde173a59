"""Fake clients that do a strategy's client half with numpy, on the fake model: K steps of rate 1 / K."""

import asyncio
import hashlib
from typing import Any, Final

import numpy as np

from broker import topics
from broker.base import Broker
from broker.messages import tensors as payload
from broker.messages.round import BlobRef, RoundTask
from broker.messages.strategy import FedDyn, QFedAvg, Scaffold, name_of
from broker.messages.tensors import Tensors
from broker.messages.update_forms import ROUNDED
from server.strategies.base import AUXILIARY
from tests.support import fakes
from tests.support.rounded import rounded

WEIGHTS: Final = ("layer.weight", "layer.bias")
"""The fake model's tensors that are no statistics."""

JOBS: Final[dict[str, dict[str, Any]]] = {
    "adaptive": {
        "strategy": {
            "name": "fedadam",
            "over": {"name": "median"},
            "local": {"name": "fedprox", "mu": 0.1},
            "guard": {"name": "median", "first": 0.5},
        },
        "training": {"update": "bf16"},
    },
    "scaffold": {"strategy": {"name": "scaffold"}, "training": {"optimizer": "sgd"}},
    "feddyn": {"strategy": {"name": "feddyn", "alpha": 0.1}},
    "fednova": {"strategy": {"name": "fednova"}, "training": {"optimizer": "sgd", "update": "fp16"}},
    "krum": {
        "strategy": {"name": "krum", "keep": 2},
        "cohort": {"clients": 5},
        "training": {"update": "int8"},
    },
    "qfedavg": {"strategy": {"name": "qfedavg", "q": 1.0}, "training": {"optimizer": "sgd"}},
}
"""Sections of a job for one strategy of each kind, in different forms of updates."""


async def states_of(bus: Broker, task: RoundTask) -> dict[str, Tensors]:
    """Return the client's states that a task names.

    Args:
        bus: has them.
        task: the task.
    """
    return {name: await blob_of(bus, ref) for name, ref in task.states.items()}


async def blob_of(bus: Broker, ref: BlobRef | None) -> Tensors:
    """Return the tensors of a blob; none if there is no blob.

    Args:
        bus: has it.
        ref: names it.
    """
    if ref is None:
        return {}
    value = await bus.get(ref.topic)
    assert value is not None, f"{ref.topic} is gone"
    return payload.decode(value.payload)[0]


async def train(bus: Broker, task: RoundTask) -> tuple[Tensors, dict[str, Tensors]]:
    """Return what a client sends, and its states after that.

    Args:
        bus: has the model and the states.
        task: the task.
    """
    base, along, states = await asyncio.gather(fakes.base_of(bus, task), blob_of(bus, task.along), states_of(bus, task))
    sent, kept = fakes.trained(base, task), dict[str, Tensors]()
    own = states.get(name_of(task.strategy), {})
    for name in WEIGHTS:
        zeros = np.zeros_like(base[name])
        mine, theirs = own.get(name, zeros), along.get(name, zeros)
        if isinstance(task.strategy, Scaffold):
            sent[name] = sent[name] + mine - theirs
            after = mine - theirs + (base[name] - sent[name])
            sent[f"{AUXILIARY}{name}"] = after - mine
            kept.setdefault("scaffold", {})[name] = after
        if isinstance(task.strategy, FedDyn):
            sent[name] = sent[name] + theirs + mine
            moved = sent[name] - base[name] - theirs
            kept.setdefault("feddyn", {})[name] = mine - np.float32(task.strategy.alpha) * moved
    return sent, kept


async def answer(bus: Broker, task: RoundTask, attempt: int = 1, **changes: Any) -> None:
    """Do what a task asks for, and publish the states and the update.

    Args:
        bus: takes them.
        task: the task.
        attempt: number of the attempt.
        changes: replace fields of the update's header.
    """
    sent, kept = await train(bus, task)
    states = {}
    for name, state in kept.items():
        content = payload.encode(state)
        topic = topics.client_state(task.job, task.client_id, task.round, attempt, name)
        await bus.put(topic, content)
        states[name] = BlobRef(topic, hashlib.sha256(content).hexdigest(), len(content))
    metrics = {"loss": 0.5, "steps": float(fakes.number(task.client_id) + 1)}
    if isinstance(task.strategy, QFedAvg):
        metrics["global_loss"] = 0.25 * (fakes.number(task.client_id) + 1)
    update = "weights"
    if task.update in ROUNDED:
        base, update = await fakes.base_of(bus, task), task.update
        moved = {name: np.asarray(sent[name] - base[name]) for name in base if base[name].dtype.kind == "f"}
        sent = rounded({**sent, **moved}, WEIGHTS, task.update)
    header = fakes.header(task, attempt, **{"states": states, "metrics": metrics, "update": update, **changes})
    await bus.publish(topics.update(task.job, task.round, task.client_id, attempt), fakes.update(sent, header))
