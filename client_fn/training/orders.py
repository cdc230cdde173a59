"""The orders that a worker gives to its trainer, and their encoding as JSON.

Named tuples, because every cold start of a function imports them: data classes take eight times as long.
"""

import json
from typing import Any, NamedTuple

STATE = "state."
"""Begins the name of a file with a state of the client's."""

OPTIMIZER = f"{STATE}opt"
"""The file with the optimizer's state."""

FROZEN = "frozen"
"""The file with the model's tensors that no client trains; without it, they are in `weights`, or made here."""

PERSONAL = "personal"
"""The file with the client's personal tensors and its optimizers' states, which stays at its site."""

AUX = "aux."
"""Begins the names of the strategy's tensors in an update."""

ALONG = "along"
"""The file with the tensors that the server's half of the strategy sends along."""


SHARD = "shard"
"""The file with a client's samples. It is not read with the order: the samples' source opens it."""


class Model(NamedTuple):
    """The model to build.

    Attributes:
        type: `nn`, `cnn`, or a class or a function of the user's as `package.module:Name`.
        args: keyword arguments.
    """

    type: str = "nn"
    args: dict[str, Any] = {}


class Learner(NamedTuple):
    """The user's class that says how to learn.

    Attributes:
        type: the class as `package.module:Name`; empty: the defaults of `client_fn.learner.Learner`.
        args: keyword arguments of its constructor.
    """

    type: str = ""
    args: dict[str, Any] = {}


class Training(NamedTuple):
    """How to train. `broker.messages.job_sections.Training` explains each field.

    Attributes:
        rate: the learning rate; None: the optimizer's default.
    """

    optimizer: str = "adam"
    rate: float | None = None
    batch_size: int = 10
    local_epochs: int = 5
    optimizer_state: str = "carry"
    optimizer_args: dict[str, Any] = {}
    loss: str = "cross_entropy"
    loss_args: dict[str, Any] = {}
    scheduler: str = ""
    scheduler_args: dict[str, Any] = {}
    clip_norm: float | None = None
    clip_value: float | None = None
    order: str = "shuffle"
    drop_last: bool = False
    precision: str = "full"
    compile: bool = False


class Evaluation(NamedTuple):
    """How to evaluate.

    Attributes:
        batch_size: samples per forward pass.
        metrics: names of metrics, or `package.module:Class`; empty: what suits the loss.
        holdout: share of the samples that is held out.
    """

    batch_size: int = 1000
    metrics: tuple[str, ...] = ()
    holdout: float = 0.0


class Source(NamedTuple):
    """The data that an order is about.

    Attributes:
        format: `safetensors`, `npz`, `csv`, `parquet`, `folder`, or `file`, which only a learner can read.
        path: the folder's path; empty: the input file `shard` holds the bytes.
        where: path or URL for messages, without secrets.
        options: `target`, `drop` and `labels` of the job's data section.
    """

    format: str = "safetensors"
    path: str = ""
    where: str = ""
    options: dict[str, Any] = {}


class Build(NamedTuple):
    """Build a model with its initial weights, and check that all that the job names is there and fits together.

    Attributes:
        model: the model.
        seed: for the initial weights.
        learner: the user's class that says how to learn.
        training: how to train.
        evaluation: how to evaluate.
        personal: patterns of names of tensors that each client keeps for itself.
        source: data whose first batch initialises lazy layers; without path and file `shard` there is none.
    """

    model: Model
    seed: int
    learner: Learner = Learner()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    personal: tuple[str, ...] = ()
    source: Source = Source()


class Train(NamedTuple):
    """Train a model on a client's shard.

    Attributes:
        model: the model.
        training: how to train; None: return noise of an update's size (a dry task).
        seed: for all random numbers.
        device: torch's name of the device.
        left_s: seconds until the task's deadline.
        strategy: the `name` of the job's strategy, and its parameters by name.
        update: what to return: `delta`, the change since the round's model, that change in fewer bits (`bf16`, `fp16`,
            `int8`), or `weights`.
        learner: the user's class that says how to learn.
        evaluation: how to judge the round's model on the hold-out.
        round: number of the round.
        model_seed: seed of the model's initial tensors, for those that are in no input.
        personal: patterns of names of tensors that each client keeps for itself.
        source: the client's data; without a path and without the file `shard` there is none (a dry task).
        frozen_digest: SHA-256 digest of the file of the frozen tensors that are made here; empty: none are.
    """

    model: Model
    training: Training | None
    seed: int
    device: str
    left_s: float
    strategy: dict[str, Any] = {"name": "fedavg"}
    update: str = "delta"
    learner: Learner = Learner()
    evaluation: Evaluation = Evaluation()
    round: int = 1
    model_seed: int = 0
    personal: tuple[str, ...] = ()
    source: Source = Source()
    frozen_digest: str = ""


class Evaluate(NamedTuple):
    """Evaluate a model on samples.

    Attributes:
        model: the model.
        evaluation: how to evaluate.
        learner: the user's class that says how to learn.
        training: its loss is measured.
        device: torch's name of the device.
        left_s: seconds until the task's deadline; None: there is none.
        source: the data.
        held_out: whether only what `evaluation` holds out of the data is looked at, for an update.
        model_seed: seed of the model's initial tensors, for those that are in no input.
        personal: patterns of names of tensors that each client keeps for itself.
        frozen_digest: as in `Train`.
    """

    model: Model
    evaluation: Evaluation = Evaluation()
    learner: Learner = Learner()
    training: Training = Training()
    device: str = "cpu"
    left_s: float | None = None
    source: Source = Source()
    held_out: bool = False
    model_seed: int = 0
    personal: tuple[str, ...] = ()
    frozen_digest: str = ""


class Score(NamedTuple):
    """Compute metrics from the sums of several evaluations, in the order's file `sums`.

    Attributes:
        model: the model.
        evaluation: how the model was evaluated.
        learner: the user's class that says how to learn.
        training: its loss was measured.
    """

    model: Model
    evaluation: Evaluation = Evaluation()
    learner: Learner = Learner()
    training: Training = Training()


class Export(NamedTuple):
    """Write a model for other programs, into the answer's file `export`.

    Attributes:
        model: the model.
        form: `onnx` or `state_dict`.
        learner: the user's class that says how to learn.
        training: as in `Evaluate`.
        evaluation: as in `Evaluate`.
        source: data whose first batch is an example of the model's input; without path and file `shard` there is none.
        device: torch's name of the device.
        model_seed: seed of the model's initial tensors, for those that are in no input.
        personal: patterns of names of tensors that each client keeps for itself: they are as constructed.
        frozen_digest: as in `Train`.
    """

    model: Model
    form: str
    learner: Learner = Learner()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    source: Source = Source()
    device: str = "cpu"
    model_seed: int = 0
    personal: tuple[str, ...] = ()
    frozen_digest: str = ""


class Look(NamedTuple):
    """Look at a client's data, without any model or code of the user's.

    Attributes:
        source: the client's data.
    """

    source: Source


class Together(NamedTuple):
    """Train several clients of one job and round in one program, where that is possible.

    The files `weights`, `frozen` and `along` are all clients'; those of one client have its number in front: `0/shard`.

    Attributes:
        members: the clients' orders, which differ in seed and source only.
        memory_mb: what the program may use on a CPU, in MiB; 0: not known.
        graph: whether a step may be recorded as a CUDA graph.
    """

    members: tuple[Train, ...]
    memory_mb: int = 0
    graph: bool = True

    @property
    def device(self) -> str:
        """The device of all members."""
        return self.members[0].device


Order = Build | Train | Evaluate | Score | Export

KINDS = {"build": Build, "train": Train, "evaluate": Evaluate, "score": Score, "export": Export, "look": Look}

_TUPLES = {
    class_: frozenset(name for name, type_ in class_.__annotations__.items() if type_ == tuple[str, ...])
    for class_ in (*KINDS.values(), Model, Learner, Training, Evaluation, Source)
}
"""The fields that are tuples, which JSON turns into lists."""

_PARTS = {"model": Model, "learner": Learner, "training": Training, "evaluation": Evaluation, "source": Source}


def encode(order: Order | Look | Together) -> str:
    """Return an order as JSON."""
    if isinstance(order, Together):
        members = [_to_fields(member) for member in order.members]
        return json.dumps({"kind": "together", **order._asdict(), "members": members})
    return json.dumps(_to_fields(order))


def decode(payload: str | bytes) -> Order | Look | Together:
    """Return the order in a JSON text that `encode` wrote."""
    fields = json.loads(payload)
    if fields["kind"] == "together":
        members = tuple(_from_fields(member) for member in fields["members"])
        return Together(members, fields["memory_mb"], fields["graph"])
    order: Order | Look = _from_fields(fields)
    return order


def _to_fields(order: Order | Look) -> dict[str, Any]:
    kind = next(name for name, class_ in KINDS.items() if isinstance(order, class_))
    fields = {name: value._asdict() if name in _PARTS and value else value for name, value in order._asdict().items()}
    return {"kind": kind, **fields}


def _from_fields(fields: dict[str, Any]) -> Any:
    class_ = KINDS[fields.pop("kind")]
    parts = {name: _part(part, fields[name]) for name, part in _PARTS.items() if fields.get(name)}
    return class_(**_with_tuples(class_, fields | parts))


def of_member(number: int, name: str) -> str:
    """Return the name of a file of one of several clients that are trained together.

    Args:
        number: of the client among them, from 0.
        name: of the file, as in an order for this client alone.
    """
    return f"{number}/{name}"


def compiles(order: Order | Look | Together) -> bool:
    """Return whether an order compiles a model, before which a trainer imports torch's compiler."""
    return isinstance(order, Train) and order.training is not None and order.training.compile


def of_the_user(order: Order | Together) -> tuple[str, ...]:
    """Return what an order names of the user's or an installed package's code, each as `package.module:Name`."""
    if isinstance(order, Together):
        return of_the_user(order.members[0])
    training = order.training or Training()
    named = (order.model.type, order.learner.type, training.loss, *order.evaluation.metrics)
    return tuple(dict.fromkeys(name for name in named if ":" in name))


def _part(part: type[Any], fields: dict[str, Any]) -> Any:
    return part(**_with_tuples(part, fields))


def _with_tuples(class_: type[Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with tuples where JSON has made lists of them."""
    tuples = _TUPLES[class_]
    return {name: tuple(value) if name in tuples else value for name, value in fields.items()}
