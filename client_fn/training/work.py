"""Does an order: builds, trains or evaluates a model. This is where the user's code runs."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from client_fn.errors import BadModel, BadSettings, LeaseOver, TrainingFailed
from client_fn.training import models, orders, tensors, updates
from client_fn.training.evaluate import evaluate
from client_fn.training.fit import fit
from client_fn.training.loop import Samples
from client_fn.training.orders import Build, Evaluate, Model, Order, Train
from client_fn.training.source import Source

Say = Callable[[str], None]
"""Tells the worker `training` once when the training begins, and `alive` before each batch."""

Answer = tuple[dict[str, Any], dict[str, bytes]]
"""Facts for JSON, and files by name."""

_built_in: dict[str, nn.Module] = {}
"""Modules of our own classes. They keep nothing of a client but their tensors, which each order overwrites."""


def do(order: Order, inputs: Mapping[str, bytes], say: Say) -> Answer:
    """Do an order.

    Args:
        order: the order.
        inputs: safetensors files by name: `weights`, `shard`, `samples`, `along`, and the states as `state.<name>`.
        say: tells the worker what happens.

    Returns:
        The facts and the files of the answer.

    Raises:
        UserCodeFailed: the model can't be built, trained or evaluated.
        BadSettings: the device can't be used.
        LeaseOver: the deadline has passed.
    """
    if isinstance(order, Build):
        return _build(order)
    if isinstance(order, Evaluate):
        return _evaluate(order, inputs, say)
    return _train(order, inputs, say)


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


def _build(order: Build) -> Answer:
    module = models.build(order.model, seed=order.seed)
    _check_dtypes(module)
    facts = {
        "frozen": list(tensors.frozen_names(module)),
        "buffers": [name for name, _ in module.named_buffers()],
    }
    return facts, {"weights": tensors.to_bytes(tensors.tensors_of(module))}


def _train(order: Train, inputs: Mapping[str, bytes], say: Say) -> Answer:
    end_s = time.monotonic() + order.left_s
    begin_s = time.perf_counter()
    module = to_device(_module(order.model), order.device)
    base = tensors.from_bytes(inputs["weights"])
    tensors.load(module, base)
    has_data = order.source.path or orders.SHARD in inputs
    samples = _samples(order.source, inputs.get(orders.SHARD)) if has_data else None
    built_s = time.perf_counter()
    say("training")

    def before_batch() -> None:
        if time.monotonic() > end_s:
            raise LeaseOver("", 0.0)
        say("alive")

    metrics: dict[str, float] = {}
    files: dict[str, bytes] = {}
    if order.training is None or samples is None:
        update = updates.noise(module, base, order.update, order.seed)
    else:
        metrics, aux, files = fit(order, order.training, module, samples, inputs, before_batch=before_batch)
        update = updates.with_aux(updates.make(module, base, order.update), aux)
    facts = {
        "metrics": metrics,
        "samples": len(samples[1]) if samples else 1,
        "seconds": {"build": built_s - begin_s, "train": time.perf_counter() - built_s},
    }
    return facts, {**files, "update": tensors.to_bytes(update)}


def _evaluate(order: Evaluate, inputs: Mapping[str, bytes], say: Say) -> Answer:
    module = _module(order.model)
    tensors.load(module, tensors.from_bytes(inputs["weights"]))
    samples = _samples(orders.Source(), inputs["samples"])
    result = evaluate(module, samples, batch_size=order.batch_size, before_batch=lambda: say("alive"))
    return result._asdict(), {}


def _module(model: Model) -> nn.Module:
    """Return a module that no other task has touched. Its weights are overwritten, so any seed will do."""
    if model.type not in models.BUILT_IN:
        return models.build(model, seed=0)
    key = json.dumps([model.type, model.args], sort_keys=True)
    if key not in _built_in:
        _built_in.clear()
        _built_in[key] = models.build(model, seed=0)
    return _built_in[key]


def _samples(order: orders.Source, content: bytes | None) -> Samples:
    source = Source(order.format, content, order.options, path=order.path, where=order.where)
    samples = source.samples()
    if not isinstance(samples, tuple):
        raise TrainingFailed("the samples need x and y")
    return samples[0], samples[1].long()


def _check_dtypes(module: nn.Module) -> None:
    """Raise BadModel if a tensor has a dtype that no message can carry."""
    known = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    for name, tensor in tensors.tensors_of(module).items():
        if tensor.dtype not in known + whole:
            raise BadModel(f"{name} has dtype {tensor.dtype}, known are {', '.join(map(str, known + whole))}")
