"""The job: what a person asks for, as a TOML file or a JSON message of one and the same schema."""

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.errors import UNREADABLE, BadTopic
from broker.messages.errors import JobError
from broker.support import validation
from broker.support.validation import AtLeastOne, NotNegative, Positive
from broker.topics import checked_id

Share = Annotated[float, Meta(gt=0, le=1)]

QUORUM_RULE = "a share of cohort.clients, above 0 and up to 1, or a whole number from 2"
_QUORUM_SCHEMA = {"allOf": [{"anyOf": [{"type": "integer"}, {"maximum": 1}]}]}
Quorum = Annotated[AtLeastOne | Positive, Meta(description=QUORUM_RULE, extra_json_schema=_QUORUM_SCHEMA)]
"""JSON has one number 1 (RFC 8259, section 6), so its value alone tells a share from a number of clients."""

LARGEST_INTEGER = 2**53 - 1
"""JSON promises no larger ones (RFC 8259, section 6)."""

MOST_SAMPLES = 2**32
"""That a cohort can claim at the most: with more, the exact sum has too few bits left for the weights."""

_DEEPEST = 16

LEARNING_RATES = {"sgd": 0.1, "adam": 1e-3, "nadam": 1e-3}
"""The paper's grid search (section 4.2)."""


PIXELS = {"digits": 8, "mnist": 28}
"""Width and height of the built-in datasets' images."""


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the job file. Programs send it on to each other, so it is strict only where a person's job is read."""


class Model(_Section, frozen=True):
    """What is trained.

    Attributes:
        type: `nn` or `cnn` (paper, section 4.1), or the user's own `package.module:Class`.
        args: keyword arguments of its constructor; `nn` and `cnn` are fitted to a built-in dataset's images.
    """

    type: str = "nn"
    args: dict[str, Any] = {}


class Training(_Section, frozen=True):
    """What each client does in a round; the names of the paper's Listing 1.

    Attributes:
        optimizer: torch's, by its usual name.
        learning_rate: None means the paper's for the optimizer.
        batch_size: examples per step.
        local_epochs: how often a client goes through its data.
        optimizer_state: `carry` hands a client the state it ended its last counted round with (paper, section 3.3);
            `reset` starts every round afresh.
        dry: return the weights untrained; shows what the fabric alone costs.
    """

    optimizer: Literal["sgd", "adam", "nadam"] = "adam"
    learning_rate: Positive | None = None
    batch_size: AtLeastOne = 10
    local_epochs: AtLeastOne = 5
    optimizer_state: Literal["carry", "reset"] = "carry"
    dry: bool = False

    @property
    def rate(self) -> float:
        """The learning rate that applies."""
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate


class Cohort(_Section, frozen=True):
    """Who takes part in a round, and when it is over.

    Attributes:
        clients: how many are wanted per round.
        over_select: how many more are invited.
        quorum: how many counted updates make a round: a share of `clients` (above 0, up to 1; 1 means all of them), or
            a number of clients, from 2.
        grace_s: how long to wait for the others after the quorum.
        deadline_s: how long a round may take.
        max_attempts: how often a client's function is invoked in a round before it is given up.
        on_failure: what to do with a round that missed its quorum.
        max_failures: failed rounds in a row that end the job, where `on_failure` is `retry` or `skip`.
        wait_s: how long to wait for clients to be registered.
        max_samples: updates that claim more samples are refused, where the register does not know better.
        presence: `required` takes only clients whose platform's bridge says that it is there, and gives up the tasks
            of one that has gone; `ignored` invites whoever is registered, and waits for them until the deadline.
    """

    clients: AtLeastOne = 10
    over_select: NotNegative = 0
    quorum: Quorum = 1.0
    grace_s: Annotated[float, Meta(ge=0)] = 5.0
    deadline_s: Positive = 300.0
    max_attempts: AtLeastOne = 3
    on_failure: Literal["retry", "skip", "stop"] = "retry"
    max_failures: AtLeastOne = 3
    wait_s: Positive = 600.0
    max_samples: AtLeastOne = 100_000
    presence: Literal["required", "ignored"] = "required"

    @property
    def invited(self) -> int:
        """How many clients get a task."""
        return self.clients + self.over_select

    @property
    def needed(self) -> int:
        """How many counted updates make a round."""
        if self.quorum > 1:
            return int(self.quorum)
        # Rounded first: 0.07 * 100 is a little more than 7 in binary, and must not need 8.
        return max(1, math.ceil(round(self.quorum * self.clients, 9)))


class Strategy(_Section, frozen=True):
    """How a finished round becomes the next global model."""

    name: Literal["fedavg"] = "fedavg"


class Data(_Section, frozen=True):
    """Which clients' data the job is about.

    Attributes:
        dataset: `digits`, `mnist`, or the name of data that only the clients have.
        partition: how a built-in dataset is dealt to clients: `shards` sorts by label and deals each client
            `shards_per_client` of equal shards (paper, section 4.1), `iid` deals at random, `dirichlet` draws each
            client's share of each label from Dirichlet(`alpha`).
        clients: how many clients the data is dealt to.
        shards_per_client: how many shards each client gets; for `shards`.
        alpha: how alike the clients' data are, the larger the more; for `dirichlet`.
        seed: of the deal.
    """

    dataset: str = "digits"
    partition: Literal["shards", "iid", "dirichlet"] = "shards"
    clients: AtLeastOne = 10
    shards_per_client: AtLeastOne = 2
    alpha: Positive = 0.5
    seed: NotNegative = 0

    @property
    def key(self) -> str:
        """Short name of this deal; clients that hold a part of it are labelled with it."""
        how = {"shards": f"shards{self.shards_per_client}", "iid": "iid", "dirichlet": f"dir{self.alpha:.15g}"}
        return f"{self.dataset}-{how[self.partition]}-c{self.clients}-s{self.seed}".replace(".", "p").replace("+", "")


class Evaluation(_Section, frozen=True):
    """How the global model is judged, on the server's test set of the job's dataset.

    Attributes:
        every: evaluate each n-th round; the last one always is. 0: never.
        batch_size: samples per forward pass.
    """

    every: NotNegative = 1
    batch_size: AtLeastOne = 1000


class Stop(_Section, frozen=True):
    """When the job is done.

    Attributes:
        rounds: after so many rounds at the latest.
        target_accuracy: as soon as the test accuracy is at least this; None: never early.
    """

    rounds: AtLeastOne = 20
    target_accuracy: Share | None = None


class Job(_Section, frozen=True):
    """Everything that a job consists of.

    Attributes:
        id: chosen by the submitter; None lets the server choose one from `name`.
        name: for people, and the start of a chosen id.
        seed: everything random comes from it.
        model: what is trained.
        training: what each client does in a round.
        cohort: who takes part in a round, and when it is over.
        strategy: how a finished round becomes the next global model.
        data: which clients' data the job is about.
        evaluation: how the global model is judged.
        stop: when the job is done.
    """

    id: str | None = None
    name: str = "job"
    seed: NotNegative = 1
    model: Model = Model()
    training: Training = Training()
    cohort: Cohort = Cohort()
    strategy: Strategy = Strategy()
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    stop: Stop = Stop()


def from_dict(raw: object) -> Job:
    """Make a job of decoded TOML or JSON, as a person wrote it.

    Raises:
        JobError: a field is unknown, has the wrong type or an impossible value.
    """
    try:
        job = validation.strict(raw, Job)
    except validation.Invalid as exc:
        field, value, allowed = exc.mistake
        raise JobError(field or "the job", value, allowed) from exc
    _check(job)
    return _fitted(job)


def from_json(payload: bytes) -> Job:
    """Decode a JSON job message.

    Raises:
        JobError: it is no JSON, or no job.
    """
    try:
        raw = msgspec.json.decode(payload)
    except UNREADABLE as exc:
        raise JobError("", None, f"not a JSON job object: {exc}") from exc
    return from_dict(raw)


def from_toml(text: str, overrides: tuple[str, ...] = ()) -> Job:
    """Decode a TOML job file.

    Args:
        text: the file's content.
        overrides: `section.key=value`, each value as TOML (bare words are strings); applied after the file.

    Raises:
        JobError: it is no TOML, or no job.
    """
    try:
        raw = msgspec.toml.decode(text)
    except UNREADABLE as exc:
        raise JobError("", None, f"not a TOML file: {exc}") from exc
    for override in overrides:
        _apply(raw, override)
    return from_dict(raw)


def stated(job: _Section) -> dict[str, Any]:
    """The tables of a job, or one of them, without what has its default.

    That is what is sent to a server: an older one need not know a field that nobody used.
    """
    default, found = type(job)(), dict[str, Any]()
    for name, value in msgspec.structs.asdict(job).items():
        if value != getattr(default, name):
            found[name] = stated(value) if isinstance(value, _Section) else value
    return found


def to_toml(job: Job) -> str:
    """The job as a TOML file that `from_toml` reads."""
    return msgspec.toml.encode(_without_none(msgspec.to_builtins(job))).decode()


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null."""
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def _apply(raw: dict[str, Any], override: str) -> None:
    path, eq, text = override.partition("=")
    *tables, key = path.strip().split(".")
    if not eq or not key:
        raise JobError(override, None, "write an override as section.key=value")
    table = raw
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise JobError(path, None, f"{name} is no table")
    table[key] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return msgspec.toml.decode(f"v = {text}")["v"]
    except UNREADABLE:
        return text


def _fitted(job: Job) -> Job:
    """The paper's models, fitted to the images of a built-in dataset where the job does not say otherwise."""
    pixels, model = PIXELS.get(job.data.dataset), job.model
    wanted = {"nn": "input_size", "cnn": "size"}.get(model.type)
    if pixels is None or wanted is None or wanted in model.args:
        return job
    size = pixels * pixels if model.type == "nn" else pixels
    return msgspec.structs.replace(job, model=Model(type=model.type, args={**model.args, wanted: size}))


def _check(job: Job) -> None:
    """What no single field's type can say."""
    _check_plain("", job, _DEEPEST)
    for field, name in (("id", job.id), ("name", job.name), ("data.dataset", job.data.dataset)):
        if name is not None:
            _check_id(field, name)
    cohort, data = job.cohort, job.data
    if cohort.quorum > 1 and cohort.quorum != cohort.needed:
        raise JobError("cohort.quorum", cohort.quorum, f"expected {QUORUM_RULE}")
    if cohort.needed > cohort.clients:
        raise JobError("cohort.quorum", cohort.quorum, f"at most cohort.clients, which is {cohort.clients}")
    if cohort.invited > data.clients:
        raise JobError(
            "cohort.clients", cohort.clients, f"with over_select at most data.clients, which is {data.clients}"
        )
    if cohort.invited * cohort.max_samples > MOST_SAMPLES:
        most = MOST_SAMPLES // cohort.invited
        raise JobError("cohort.max_samples", cohort.max_samples, f"at most {most} for {cohort.invited} clients")
    if not (job.model.type in ("nn", "cnn") or _is_class_path(job.model.type)):
        raise JobError("model.type", job.model.type, "'nn', 'cnn' or a class as 'package.module:Class'")
    if job.model.type == "cnn" and job.data.dataset == "digits":
        raise JobError("model.type", "cnn", "'nn' or a class of yours: the digits' 8x8 pixels are too few for 'cnn'")
    if job.stop.target_accuracy is not None and job.evaluation.every == 0:
        raise JobError("stop.target_accuracy", job.stop.target_accuracy, "needs evaluation.every of at least 1")


def _check_plain(path: str, value: object, room: int) -> None:
    """JSON and TOML can both say the value, and mean the same by it; TOML's null is a field that is left out."""
    if room == 0:
        raise JobError(path, None, "expected less deeply nested tables and lists")
    match value:
        case msgspec.Struct():
            _check_plain(path, msgspec.structs.asdict(value), room)
        case dict():
            for key, part in value.items():
                _check_plain(f"{path}.{key}" if path else key, part, room - 1)
        case list():
            for part in value:
                _check_plain(path, part, room - 1)
        case int() | float():
            _check_number(path, value)
        case None if not path.startswith("model.args."):
            pass
        case _ if not isinstance(value, str):
            raise JobError(path, value, "expected texts, numbers, true or false, and tables and lists of these")


def _check_number(path: str, value: float) -> None:
    fits = abs(value) <= LARGEST_INTEGER if isinstance(value, int) else math.isfinite(value)
    if not fits:
        raise JobError(path, value, "expected a finite number; whole ones up to 2^53 - 1")


def _check_id(field: str, name: str) -> None:
    try:
        checked_id(name)
    except BadTopic as exc:
        raise JobError(field, name, exc.rule) from exc


def _is_class_path(path: str) -> bool:
    module, _, name = path.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split("."))
