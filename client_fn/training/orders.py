"""The orders that a worker gives to its trainer, and their encoding as JSON."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

STATE = "state."
"""Begins the name of a file with a state of the client's."""

OPTIMIZER = f"{STATE}opt"
"""The file with the optimizer's state."""

ALONG = "along"
"""The file with the tensors that the server's half of the strategy sends along."""


SHARD = "shard"
"""The file with a client's samples. It is not read with the order: the samples' source opens it."""


@dataclass(frozen=True)
class Model:
    """The model to build.

    Attributes:
        type: `nn`, `cnn`, or a class or a function of the user's as `package.module:Name`.
        args: keyword arguments.
    """

    type: str = "nn"
    args: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        optimizer: `sgd`, `adam` or `nadam`.
        rate: the learning rate; None: the optimizer's default.
        batch_size: examples per step.
        local_epochs: passes over the data.
        optimizer_state: `carry` returns the optimizer's state.
    """

    optimizer: str = "adam"
    rate: float | None = None
    batch_size: int = 10
    local_epochs: int = 5
    optimizer_state: str = "carry"


@dataclass(frozen=True)
class Source:
    """Where a client's samples lie, and how to read them.

    Attributes:
        format: `safetensors`, `npz`, `csv`, `parquet`, `folder`, or `file`, which only a learner can read.
        path: the folder's path; empty: the input file `shard` holds the bytes.
        where: path or URL for messages, without secrets.
        options: `target`, `drop` and `labels` of the job's data section.
    """

    format: str = "safetensors"
    path: str = ""
    where: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """Build a model with its initial weights.

    Attributes:
        model: the model.
        seed: for the initial weights.
    """

    model: Model
    seed: int


@dataclass(frozen=True)
class Train:
    """Train a model on a client's shard.

    Attributes:
        model: the model.
        training: how to train; None: return noise of an update's size (a dry task).
        seed: for all random numbers.
        device: torch's name of the device.
        left_s: seconds until the task's deadline.
        strategy: the `name` of the job's strategy, and its parameters by name.
        update: what to return: `delta`, the change since the round's model, or `weights`.
        source: the client's data; without a path and without the file `shard` there is none (a dry task).
    """

    model: Model
    training: Training | None
    seed: int
    device: str
    left_s: float
    strategy: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "fedavg"})
    update: str = "delta"
    source: Source = Source()


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a model on samples.

    Attributes:
        model: the model.
        batch_size: samples per forward pass.
    """

    model: Model
    batch_size: int


Order = Build | Train | Evaluate

KINDS = {"build": Build, "train": Train, "evaluate": Evaluate}


def encode(order: Order) -> bytes:
    """Return an order as JSON."""
    kind = next(name for name, class_ in KINDS.items() if isinstance(order, class_))
    return json.dumps({"kind": kind, **dataclasses.asdict(order)}).encode()


def decode(payload: bytes) -> Order:
    """Return the order in a JSON text that `encode` wrote."""
    fields = json.loads(payload)
    class_ = KINDS[fields.pop("kind")]
    fields["model"] = Model(**fields["model"])
    if fields.get("training"):
        fields["training"] = Training(**fields["training"])
    if fields.get("source"):
        fields["source"] = Source(**fields["source"])
    order: Order = class_(**fields)
    return order
