"""A round's task, and the tokens and seeds that are derived for it."""

import hashlib
import hmac
from typing import ClassVar, Final, Literal

import msgspec

from broker.messages import codec
from broker.messages.job import Model, Training
from broker.messages.strategy import FedAvg, Strategy

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
        deadline_s: seconds since the epoch after which no update is accepted.
        max_attempts: how often the function may be invoked for this task.
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
    update: Literal["delta", "weights"] = "weights"
    token: str
    seed: int
    deadline_s: float
    max_attempts: int
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
        return (self.model, *along, *self.initial_states.values())


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
