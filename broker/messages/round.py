"""A round's task, and what is derived for it: tokens and seeds."""

import hashlib
import hmac
from typing import Any, ClassVar

import msgspec

from broker.messages import codec
from broker.messages.job import Model, Training


class BlobRef(msgspec.Struct, frozen=True):
    """Where bytes lie, and which bytes they are. Weights never travel in a message, only this does.

    Attributes:
        topic: where they are retained.
        sha256: their digest, 64 hexadecimal digits.
        bytes: how many they are.
    """

    topic: str
    sha256: str
    bytes: int


class RoundTask(msgspec.Struct, frozen=True, kw_only=True):
    """What one client is asked to do in one round.

    The first fields are those of the paper's Listing 1, by its names.

    Attributes:
        client_id: who.
        client_type: the platform that hosts the client's function.
        url: where that platform triggers it; empty where the platform needs none.
        model_configuration: the model to build.
        data_loc: fsspec URL of the client's shard.
        training_hyperparameters: how to train.
        model: the global model to start from.
        state: the optimizer state to start from; None: afresh.
        token: proves that an update answers this task; unguessable.
        seed: of everything random in this training.
        deadline_s: seconds since the epoch; no update is wanted after it.
        max_attempts: how often the function may be invoked for this task.
        client_config: what the strategy tells the client.
        schema: version of the message.
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
    state: BlobRef | None
    token: str
    seed: int
    deadline_s: float
    max_attempts: int
    client_config: dict[str, Any] = {}
    schema: int = codec.SCHEMA

    @property
    def id(self) -> str:
        """Names the task: a second copy has the same."""
        return f"{self.job}.{self.round}.{self.client_id}"


def nonce(secret: str, job: str, round_: int) -> str:
    """The nonce of one round: whoever knows the job's secret gets the same (HMAC-SHA256, RFC 2104).

    Args:
        secret: the job's.
        job: its id.
        round_: the round's number.
    """
    return hmac.new(secret.encode(), f"{job}/{round_}".encode(), hashlib.sha256).hexdigest()


class TaskName(msgspec.Struct, frozen=True, kw_only=True):
    """What names a task in a message of any schema, however little else of it can be read."""

    client_id: str
    client_type: str
    job: str
    round: int
    token: str = ""

    @property
    def id(self) -> str:
        """The task's."""
        return f"{self.job}.{self.round}.{self.client_id}"


def token(nonce: str, client: str) -> str:
    """The token of a client's task in the round that the nonce belongs to (HMAC-SHA256, RFC 2104)."""
    return hmac.new(nonce.encode(), client.encode(), hashlib.sha256).hexdigest()


def seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
