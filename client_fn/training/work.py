"""Does an order: builds, trains or evaluates a model. This is where the user's code runs."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from client_fn.training import (
    check,
    codecs,
    diagnosis,
    evaluate,
    export,
    frozen,
    holdout,
    judge,
    lazy,
    learner,
    look,
    models,
    orders,
    processor,
    tensors,
    updates,
)
from client_fn.training.context import Context
from client_fn.training.device import unusable
from client_fn.training.fit import fit, states_of_optimizers
from client_fn.training.learner import Learner
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import Build, Evaluate, Export, Look, Order, Score, Train, Training
from client_fn.training.packets import Content
from client_fn.training.personal import PersonalLayers
from client_fn.training.randomness import seeded
from client_fn.training.source import Source

Say = Callable[[str], None]
"""Tells the worker `training` once when the training begins, and `alive` before each batch."""

Answer = tuple[dict[str, Any], dict[str, bytes]]
"""Facts for JSON, and files by name."""

_built_in: dict[str, nn.Module] = {}
"""Modules of our own classes. They keep nothing of a client but their tensors, which each order overwrites."""


def do(order: Order | Look, inputs: Mapping[str, Content], say: Say) -> Answer:
    """Do an order.

    Args:
        order: the order.
        inputs: safetensors files by name: `weights`, `shard`, `along`, `sums`, `personal`, and the states as
            `state.<name>`.
        say: tells the worker what happens.

    Returns:
        The facts and the files of the answer.

    Raises:
        UserCodeFailed: the model can't be built, trained or evaluated.
        BadData: the samples can't be used.
        BadSettings: the device can't be used.
        LeaseOver: the deadline has passed.
    """
    if isinstance(order, Look):
        # The worker tells by this that the look does not wait for another order.
        say("training")
        found = look.look(_source(order.source, inputs), order.source.where, say)
        return {**found._asdict(), "columns": [column._asdict() for column in found.columns]}, {}
    ours = learner.make(order)
    if isinstance(order, Build):
        return _build(order, ours, inputs)
    if isinstance(order, Evaluate):
        return _evaluate(order, ours, inputs, say)
    if isinstance(order, Export):
        return _export(order, ours, inputs, say)
    if isinstance(order, Score):
        return {"metrics": evaluate.score(ours, tensors.from_bytes(inputs["sums"]))}, {}
    return _train(order, ours, inputs, say)


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
        raise unusable(device, exc) from exc


def _build(order: Build, ours: Learner, inputs: Mapping[str, Content]) -> Answer:
    with seeded(order.seed):
        with diagnosis.calling("model()"):
            model = ours.model()
        lazy.initialise(ours, model, lambda: data_of(ours, order, inputs) if has_data(order, inputs) else None)
    layers = PersonalLayers(ModelTensors(ours, model), order.personal)
    weights = layers.shared.all()
    check.settings(ours, model, order)
    facts = {
        "frozen": list(layers.shared.frozen(weights)),
        "buffers": list(layers.shared.buffers()),
        "personal": list(layers.names),
    }
    return facts, {"weights": tensors.to_bytes(weights)}


class _Trained(NamedTuple):
    """What a training has brought: the update's tensors, the client's states, and facts about both."""

    update: Mapping[str, torch.Tensor]
    files: Mapping[str, bytes]
    metrics: Mapping[str, float]
    samples: int
    judged: judge.Judged


def _train(order: Train, ours: Learner, inputs: Mapping[str, Content], say: Say) -> Answer:
    end_s = time.monotonic() + order.left_s
    begin_s = time.perf_counter()
    data = data_of(ours, order, inputs) if order.training is not None and has_data(order, inputs) else None
    model, layers, base = loaded(ours, order, inputs, data)
    inputs = layers.load(inputs)
    built_s = time.perf_counter()
    say("training")
    if order.training is None or data is None:
        noise = updates.noise(layers.shared, base, order.update, order.seed)
        trained = _Trained(encoded(noise, layers, order), {}, {}, 1, judge.NOTHING)
    else:
        rest, held_out = holdout.split(data, order.evaluation.holdout)
        judged = judge.judge(ours, model, held_out, evaluation_context(ours, model, order, say, end_s))
        context = training_context(ours, model, order, inputs, say=say, end_s=end_s)

        def measure_loss() -> float:
            return judge.loss(ours, model, rest, evaluation_context(ours, model, order, say, end_s))

        parts = {"order": order, "inputs": inputs, "part": layers.part(model)}
        with context.scratch():
            fitted = fit(ours, model, rest, context, **parts, measure_loss=measure_loss)
        update = encoded(updates.make(layers.shared, base, order.update), layers, order)
        update = updates.with_aux(update, fitted.aux)
        trained = _Trained({**update, **judged.sums}, fitted.files, fitted.metrics, fitted.samples, judged)
    judged = trained.judged
    trained_s = time.perf_counter() - built_s - judged.duration_s
    seconds = {"build": built_s - begin_s, "train": trained_s, **judged.seconds}
    facts = {"metrics": trained.metrics, "samples": trained.samples, "seconds": seconds, **judged.facts}
    facts["processor"] = processor.name(order.device)
    return facts, {**layers.save(trained.files), "update": tensors.to_bytes(trained.update)}


def encoded(update: Mapping[str, torch.Tensor], layers: PersonalLayers, order: Train) -> dict[str, torch.Tensor]:
    """Return the model's part of an update as it travels. What a strategy sends beside it is never rounded.

    Args:
        update: as `updates.make` returns it.
        layers: the model.
        order: the form of the update, and the seed of its rounding.
    """
    return codecs.encode(update, layers.shared.buffers(), order.update, order.seed)


def training_context(
    ours: Learner, model: Any, order: Train, inputs: Mapping[str, Content], *, say: Say, end_s: float
) -> Context:
    """Return the context of a training.

    Args:
        ours: the learner.
        model: its model.
        order: the order.
        inputs: its files; optimizers' states are among them.
        say: tells the worker what happens.
        end_s: the task's deadline, by `time.monotonic`.
    """
    return Context(
        ours,
        model,
        order.training or Training(),
        seed=order.seed,
        device=order.device,
        round_=order.round,
        end_s=end_s,
        say=say,
        states=states_of_optimizers(inputs),
    )


def _evaluate(order: Evaluate, ours: Learner, inputs: Mapping[str, Content], say: Say) -> Answer:
    begin_s = time.perf_counter()
    end_s = None if order.left_s is None else time.monotonic() + order.left_s
    data = data_of(ours, order, inputs)
    model, layers, _ = loaded(ours, order, inputs, data)
    layers.load(inputs)
    built_s = time.perf_counter()
    say("training")
    context = evaluation_context(ours, model, order, say, end_s)
    if order.held_out:
        judged = judge.judge(ours, model, holdout.split(data, order.evaluation.holdout).held, context)
        facts = {"seconds": {"build": built_s - begin_s, **judged.seconds}, **judged.facts}
        return facts, {"update": tensors.to_bytes(judged.sums)}
    with context.scratch():
        samples, metrics, sums = evaluate.evaluate(ours, model, data, context)
    facts = {
        "samples": samples,
        "metrics": metrics,
        "seconds": {"build": built_s - begin_s, "evaluate": time.perf_counter() - built_s},
    }
    return facts, {"sums": tensors.to_bytes(sums)}


def _export(order: Export, ours: Learner, inputs: Mapping[str, Content], say: Say) -> Answer:
    data = data_of(ours, order, inputs) if has_data(order, inputs) else None
    model, _, _ = loaded(ours, order, inputs, data)
    if order.form == "state_dict":
        return {}, {"export": export.state_dict(model)}

    def first_batch() -> Any:
        if data is None:
            return None
        return next(iter(evaluation_context(ours, model, order, say, None).batches(data)))

    return {}, {"export": export.onnx(ours, model, first_batch)}


def evaluation_context(
    ours: Learner, model: Any, order: Train | Evaluate | Export, say: Say, end_s: float | None
) -> Context:
    """Return a context for an evaluation: batches of its size, in the order in which the samples lie.

    Args:
        ours: the learner.
        model: its model.
        order: the order.
        say: tells the worker what happens.
        end_s: the task's deadline, by `time.monotonic`; None: there is none.
    """
    training = (order.training or Training())._replace(
        batch_size=order.evaluation.batch_size,
        order="sequential",
        drop_last=False,
        local_epochs=1,
    )
    return Context(ours, model, training, device=order.device, end_s=end_s, say=say)


def data_of(ours: Learner, order: Build | Train | Evaluate | Export, inputs: Mapping[str, Content]) -> Any:
    """Return the learner's samples of the order's data.

    Args:
        ours: the learner.
        order: names the data.
        inputs: the order's files; the file of samples may be among them.

    Raises:
        BadData: the samples can't be read.
        UserCodeFailed: the learner's `data` fails.
    """
    with seeded(getattr(order, "seed", 0)), diagnosis.calling("data()"):
        return ours.data(_source(order.source, inputs))


def _source(source: orders.Source, inputs: Mapping[str, Content]) -> Source:
    return Source(source.format, inputs.get(orders.SHARD), source.options, path=source.path, where=source.where)


def has_data(order: Build | Train | Export, inputs: Mapping[str, Content]) -> bool:
    """Return whether an order comes with samples.

    Args:
        order: the order.
        inputs: its files.
    """
    return bool(order.source.path) or orders.SHARD in inputs


def loaded(
    ours: Learner, order: Train | Evaluate | Export, inputs: Mapping[str, Content], data: Any
) -> tuple[Any, PersonalLayers, dict[str, torch.Tensor]]:
    """Return a model with the round's weights, on its device, its personal layers as constructed, and these weights.

    Args:
        ours: the learner.
        order: names the model.
        inputs: the order's files.
        data: samples for lazy layers.

    Raises:
        UserCodeFailed: the model can't be built, or has other tensors than the weights.
        BadSettings: the device can't be used.
    """
    model = _model(ours, order, data)
    layers = PersonalLayers(ModelTensors(ours, model), order.personal)
    base = frozen.complete(layers.shared, inputs, order.frozen_digest)
    if isinstance(model, nn.Module):
        to_device(model, order.device)
    layers.shared.load(base)
    if isinstance(model, nn.Module) and _is_compiled(order):
        model.compile()
    return model, layers, base


def _model(ours: Learner, order: Train | Evaluate | Export, data: Any) -> Any:
    """Return a model that no other task has touched. What an order brings is overwritten, whatever the seed."""
    if order.learner.type or order.model.type not in models.BUILT_IN or order.personal or _is_compiled(order):
        # What no input brings is as its constructor makes it, at the server and at each site.
        with seeded(order.model_seed if order.personal or order.frozen_digest else 0):
            with diagnosis.calling("model()"):
                model = ours.model()
            lazy.initialise(ours, model, lambda: data)
        return model
    key = json.dumps([order.model.type, order.model.args], sort_keys=True)
    if key not in _built_in:
        _built_in.clear()
        _built_in[key] = models.build(order.model, seed=0)
    return _built_in[key]


def _is_compiled(order: Train | Evaluate | Export) -> bool:
    return isinstance(order, Train) and order.training is not None and order.training.compile
