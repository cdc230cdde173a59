"""The job: what a person submits, as a TOML file or as a JSON message with the same schema."""

import math
import re
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
"""JSON does not distinguish 1 from 1.0 (RFC 8259, section 6), so the value decides: a share up to 1, clients from 2."""

LARGEST_INTEGER = 2**53 - 1
"""Largest integer that JSON programs exchange exactly (RFC 8259, section 6)."""

MAX_COHORT_SAMPLES = 2**32
"""Most samples that a cohort can claim: with more, the exact sum has too few bits left for the weights."""

_DIGEST = re.compile(r"[0-9a-f]{64}")

_MAX_DEPTH = 16
"""Most levels of nested tables and lists in a job."""

LEARNING_RATES = {"sgd": 0.1, "adam": 1e-3, "nadam": 1e-3}
"""Default learning rate per optimizer: the paper's grid search (section 4.2)."""

PIXELS = {"digits": 8, "mnist": 28}
"""Width (and height) of the built-in datasets' images."""


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the job file's tables. Programs forward them to each other, so only `from_dict` reads them strictly."""


class Model(_Section, frozen=True):
    """The model to train.

    Attributes:
        type: `nn` or `cnn` (paper, section 4.1), or a class or function of the user's as
            `package.module:Name`.
        args: keyword arguments of its constructor; for `nn` and `cnn`, a built-in dataset gives the input size.
        code: SHA-256 digest of the user's code, 64 hexadecimal digits; empty: the server sets it when the job begins,
            from the code that it was started with.
    """

    type: str = "nn"
    args: dict[str, Any] = {}
    code: str = ""


class Training(_Section, frozen=True):
    """How each client trains in a round; the names are those of the paper's Listing 1.

    Attributes:
        optimizer: torch's optimizer of that name.
        learning_rate: None: the paper's learning rate for the optimizer.
        batch_size: examples per step.
        local_epochs: passes over the client's data per round.
        optimizer_state: `carry` starts with the optimizer state at the end of the client's last counted round (paper,
            section 3.3); `reset` starts every round with a fresh one.
        dry: return the weights without training; measures the cost of the fabric alone.
    """

    optimizer: Literal["sgd", "adam", "nadam"] = "adam"
    learning_rate: Positive | None = None
    batch_size: AtLeastOne = 10
    local_epochs: AtLeastOne = 5
    optimizer_state: Literal["carry", "reset"] = "carry"
    dry: bool = False

    @property
    def rate(self) -> float:
        """The learning rate to use."""
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate


class Cohort(_Section, frozen=True):
    """Which clients take part in a round, and when the round ends.

    Attributes:
        clients: number of clients per round.
        over_select: number of additional clients to invite.
        quorum: number of counted updates that a round needs: a share of `clients` (above 0, up to 1; 1 means all of
            them), or a number of clients, from 2.
        grace_s: time to wait for the other clients after the quorum, in seconds.
        deadline_s: time limit of a round, in seconds.
        max_attempts: how often a client's function is invoked in a round before the client is given up.
        on_failure: policy for a round that misses its quorum.
        max_failures: failed rounds in a row that end the job, if `on_failure` is `retry` or `skip`.
        wait_s: time to wait until enough clients are registered, in seconds.
        max_samples: updates that claim more samples are refused; so are those that claim more than the register says
            that the client has.
        presence: `required` invites only clients whose platform has a present bridge, and gives up the tasks of a
            bridge that is absent; `ignored` invites all registered clients, and waits for them until the deadline.
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
        """Number of clients that get a task."""
        return self.clients + self.over_select

    @property
    def needed(self) -> int:
        """Number of counted updates that a round needs."""
        if self.quorum > 1:
            return int(self.quorum)
        # Rounded before the ceiling: 0.07 * 100 is slightly more than 7 in binary, and must not need 8 updates.
        return max(1, math.ceil(round(self.quorum * self.clients, 9)))


class Strategy(_Section, frozen=True):
    """How the counted updates become the next global model.

    Attributes:
        name: the strategy's name.
    """

    name: Literal["fedavg"] = "fedavg"


class Data(_Section, frozen=True):
    """The data that the job trains on, and its partition among clients.

    Attributes:
        dataset: `digits`, `mnist`, or the name of data that only the clients have.
        partition: how a built-in dataset is split among clients: `shards` sorts it by label and gives each client
            `shards_per_client` of equal shards (paper, section 4.1), `iid` splits at random, `dirichlet` draws each
            client's share of each label from Dirichlet(`alpha`).
        clients: number of clients in the partition.
        shards_per_client: number of shards per client; for `shards`.
        alpha: similarity of the clients' data: the larger, the more similar; for `dirichlet`.
        seed: seed of the partition.
    """

    dataset: str = "digits"
    partition: Literal["shards", "iid", "dirichlet"] = "shards"
    clients: AtLeastOne = 10
    shards_per_client: AtLeastOne = 2
    alpha: Positive = 0.5
    seed: NotNegative = 0

    @property
    def key(self) -> str:
        """Key of the partition; the register labels each client of the partition with it."""
        names = {"shards": f"shards{self.shards_per_client}", "iid": "iid", "dirichlet": f"dir{self.alpha:.15g}"}
        key = f"{self.dataset}-{names[self.partition]}-c{self.clients}-s{self.seed}"
        return key.replace(".", "p").replace("+", "")


class Evaluation(_Section, frozen=True):
    """How the server evaluates the global model, on its test set of the job's dataset.

    Attributes:
        every: evaluate every n-th round, and always the last one; 0: never.
        batch_size: samples per forward pass.
    """

    every: NotNegative = 1
    batch_size: AtLeastOne = 1000


class Stop(_Section, frozen=True):
    """When the job ends.

    Attributes:
        rounds: maximum number of completed rounds.
        target_accuracy: test accuracy that ends the job early; None: the job never ends early.
    """

    rounds: AtLeastOne = 20
    target_accuracy: Share | None = None


class Job(_Section, frozen=True):
    """A federated training job.

    Attributes:
        id: the job's id; None: the server derives one from `name`.
        name: name for people; the server's ids start with it.
        seed: seed of all random numbers of the job.
        model: the model to train.
        training: how each client trains in a round.
        cohort: which clients take part in a round, and when the round ends.
        strategy: how the counted updates become the next global model.
        data: the data that the job trains on.
        evaluation: how the server evaluates the global model.
        stop: when the job ends.
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
    """Build a job from decoded TOML or JSON, strictly: a person wrote it.

    Raises:
        JobError: a field is unknown, has the wrong type or an impossible value.
    """
    try:
        job = validation.strict(raw, Job)
    except validation.Invalid as exc:
        field, value, allowed = exc.mistake
        raise JobError(field or "the job", value, allowed) from exc
    _check(job)
    return _with_input_size(job)


def from_json(payload: bytes) -> Job:
    """Decode a JSON job message.

    Raises:
        JobError: the payload is not JSON, or not a valid job.
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
        overrides: texts of the form `section.key=value`, each value in TOML (a bare word is a string); they take
            precedence over the file.

    Raises:
        JobError: the text is not TOML, an override is malformed, or the result is not a valid job.
    """
    try:
        raw = msgspec.toml.decode(text)
    except UNREADABLE as exc:
        raise JobError("", None, f"not a TOML file: {exc}") from exc
    for override in overrides:
        _apply(raw, override)
    return from_dict(raw)


def without_defaults(job: _Section) -> dict[str, Any]:
    """Return a job, or one of its tables, without the fields that have their default.

    Programs submit this form, so that an older server does not refuse a new field that the job does not use.
    """
    default, table = type(job)(), dict[str, Any]()
    for name, value in msgspec.structs.asdict(job).items():
        if value != getattr(default, name):
            table[name] = without_defaults(value) if isinstance(value, _Section) else value
    return table


def to_toml(job: Job) -> str:
    """Encode a job as a TOML file that `from_toml` reads."""
    return msgspec.toml.encode(_without_none(msgspec.to_builtins(job))).decode()


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """Leave out the fields that are None: TOML has no null."""
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
    try:
        table[key] = msgspec.toml.decode(f"v = {text.strip()}")["v"]
    except UNREADABLE:
        table[key] = text.strip()


def _with_input_size(job: Job) -> Job:
    """Set the input size of the paper's models to that of a built-in dataset, unless the job sets it."""
    pixels, model = PIXELS.get(job.data.dataset), job.model
    name = {"nn": "input_size", "cnn": "size"}.get(model.type)
    if pixels is None or name is None or name in model.args:
        return job
    size = pixels * pixels if model.type == "nn" else pixels
    return msgspec.structs.replace(job, model=msgspec.structs.replace(model, args={**model.args, name: size}))


def _check(job: Job) -> None:
    """Check the rules that no single field's type can express."""
    _check_value("", job, _MAX_DEPTH)
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
    if cohort.invited * cohort.max_samples > MAX_COHORT_SAMPLES:
        most = MAX_COHORT_SAMPLES // cohort.invited
        raise JobError("cohort.max_samples", cohort.max_samples, f"at most {most} for {cohort.invited} clients")
    _check_model(job)
    if job.stop.target_accuracy is not None and job.evaluation.every == 0:
        raise JobError("stop.target_accuracy", job.stop.target_accuracy, "needs evaluation.every of at least 1")


def _check_model(job: Job) -> None:
    if not (job.model.type in ("nn", "cnn") or _is_class_path(job.model.type)):
        raise JobError("model.type", job.model.type, "'nn', 'cnn' or a class as 'package.module:Class'")
    if job.model.code and not _DIGEST.fullmatch(job.model.code):
        raise JobError("model.code", job.model.code, "a SHA-256 digest: 64 hexadecimal digits")
    if job.model.type == "cnn" and job.data.dataset == "digits":
        raise JobError("model.type", "cnn", "'nn' or a class of yours: the digits' 8x8 pixels are too few for 'cnn'")


def _check_value(path: str, value: object, depth: int) -> None:
    """Check that JSON and TOML can both express a value. TOML has no null, so None is legal only for an omitted field.

    Args:
        path: dotted name of the field.
        value: the field's value.
        depth: how many more levels of tables and lists are allowed.
    """
    if depth == 0:
        raise JobError(path, None, "expected less deeply nested tables and lists")
    match value:
        case msgspec.Struct():
            _check_value(path, msgspec.structs.asdict(value), depth)
        case dict():
            for key, part in value.items():
                _check_value(f"{path}.{key}" if path else key, part, depth - 1)
        case list():
            for part in value:
                _check_value(path, part, depth - 1)
        case int() | float() if abs(value) > LARGEST_INTEGER if isinstance(value, int) else not math.isfinite(value):
            raise JobError(path, value, "expected a finite number; whole ones up to 2^53 - 1")
        case None if not path.startswith("model.args."):
            pass
        case _ if not isinstance(value, str | int | float):
            raise JobError(path, value, "expected texts, numbers, true or false, and tables and lists of these")


def _check_id(field: str, name: str) -> None:
    try:
        checked_id(name)
    except BadTopic as exc:
        raise JobError(field, name, exc.rule) from exc


def _is_class_path(path: str) -> bool:
    module, _, name = path.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split("."))
