"""A round's task, and the tokens and seeds that are derived for it."""

import hashlib
import hmac
from typing import ClassVar, Final, Literal

import msgspec

from broker.messages import codec
from broker.messages.job_sections import Data, Evaluation, Learner, Model, Training
from broker.messages.strategy import FedAvg, Strategy
from broker.messages.update_forms import UpdateForm

Purpose = Literal["train", "evaluate"]

OPTIMIZER_STATE: Final = "opt"
"""Name of the client state that holds the optimizer's tensors."""


class BlobRef(msgspec.Struct, frozen=True):
    """A reference to bytes on the broker. Messages carry references, never the weights themselves.

    Attributes:
        topic: topic that retains the bytes.
        sha256: SHA-256 digest of the bytes, 64 hexadecimal digits.
        bytes: number of bytes.
    """

    topic: str
    sha256: str
    bytes: int


class PersonalRef(msgspec.Struct, frozen=True):
    """A client's own tensors, which are at its `state_loc` and never on the broker.

    Attributes:
        round: the round that they were trained in.
        attempt: the attempt whose update was counted.
        sha256: SHA-256 digest of the safetensors file, 64 hexadecimal digits.
    """

    round: int
    attempt: int
    sha256: str


class RoundTask(msgspec.Struct, frozen=True, kw_only=True):
    """The task of one client in one round.

    The first fields are those of the paper's Listing 1, under the same names.

    Attributes:
        client_id: the client's id.
        client_type: the platform that hosts the client's function.
        url: where the platform triggers the function; empty: the platform needs no URL.
        model_configuration: the model to build.
        data_loc: fsspec URL of the client's shard.
        training_hyperparameters: how to train.
        model: the global model to start from.
        states: the client states to start from, by name: `opt` is the optimizer's.
        along: tensors that the strategy sends along; None: it sends none.
        strategy: the strategy of which the function does the client's half.
        update: what the update must hold, as the job's `training.update` says; a server of an older version does not
            write this field, and takes only weights.
        token: proof that an update answers this task; unguessable.
        seed: seed of all random numbers in this training.
        deadline_s: seconds since the epoch after which no update is accepted, for people. Clocks differ, so programs
            use `lasts_s`, except for tasks of older versions.
        lasts_s: seconds from the publication of this message until no update is accepted; in a request to a function,
            from the request on. None: an older version wrote it.
        max_attempts: how often the function may be invoked for this task.
        learner: the user's class that says how to learn.
        evaluation: how to judge the round's model on the client's hold-out; None: not at all.
        purpose: `train`, or `evaluate`: only judge the round's model.
        frozen: the model's tensors that no client trains; None: there are none, or the site makes them itself.
        frozen_digest: SHA-256 digest of the safetensors file of the tensors that the site makes itself, as it builds
            the model with `model_seed`; empty: there are none.
        personal: the client's own tensors to start from; None: the initial ones.
        state_loc: where the client's own tensors lie; empty: beside `data_loc`.
        model_seed: seed of the model's initial tensors, for those that are not in `model`.
        data: how to read the client's shard: `target`, `drop`, `labels` and `format`.
        state: the optimizer state once more, for functions of older versions; None: a fresh one.
        schema: schema number of the message.
    """

    upgrade: ClassVar = "upgrade this bridge to the version of the server"

    client_id: str
    client_type: str
    url: str
    model_configuration: Model
    data_loc: str
    training_hyperparameters: Training
    job: str
    round: int
    model: BlobRef
    states: dict[str, BlobRef] = {}
    along: BlobRef | None = None
    strategy: Strategy = FedAvg()
    update: UpdateForm = "weights"
    token: str
    seed: int
    deadline_s: float
    lasts_s: float | None = None
    max_attempts: int
    learner: Learner = Learner()
    evaluation: Evaluation | None = None
    purpose: Purpose = "train"
    frozen: BlobRef | None = None
    frozen_digest: str = ""
    personal: PersonalRef | None = None
    state_loc: str = ""
    model_seed: int = 0
    data: Data = Data()
    state: BlobRef | None = None
    schema: int = codec.SCHEMA

    @property
    def id(self) -> str:
        """The task's id. A second copy of the task has the same id."""
        return f"{self.job}.{self.round}.{self.client_id}"

    @property
    def initial_states(self) -> dict[str, BlobRef]:
        """The client states to start from; a server of an older version names only the optimizer's, in `state`."""
        return self.states or ({} if self.state is None else {OPTIMIZER_STATE: self.state})

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """Everything on the broker that the function needs; the model comes first."""
        along = () if self.along is None else (self.along,)
        frozen = () if self.frozen is None else (self.frozen,)
        return (self.model, *frozen, *along, *self.initial_states.values())


class TaskName(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that identify a task. They are the same in every schema."""

    client_id: str
    client_type: str
    job: str
    round: int
    token: str = ""

    @property
    def id(self) -> str:
        """The task's id."""
        return f"{self.job}.{self.round}.{self.client_id}"


def nonce(secret: str, job: str, round_: int) -> str:
    """Return a round's nonce: HMAC-SHA256 (RFC 2104) of job and round, keyed with the job's secret.

    Args:
        secret: the job's secret.
        job: the job's id.
        round_: the round's number.
    """
    return hmac.new(secret.encode(), f"{job}/{round_}".encode(), hashlib.sha256).hexdigest()


def token(nonce: str, client: str) -> str:
    """Return the token of a client's task: HMAC-SHA256 (RFC 2104) of the client, keyed with the round's nonce.

    Args:
        nonce: the round's nonce.
        client: the client's id.
    """
    return hmac.new(nonce.encode(), client.encode(), hashlib.sha256).hexdigest()


def seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on all parts and their order, and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
