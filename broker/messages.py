"""The messages of a round (task, update, invocation) and the client register's entry."""

import hashlib
import hmac
from typing import Any, Literal

import msgspec

from broker.errors import UNREADABLE, DecodeError
from broker.job import Model, Training


class BlobRef(msgspec.Struct, frozen=True):
    """Where bytes lie, and which bytes they are. Weights never travel in a message, only this does."""

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
        told: what the strategy tells the client.
    """

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
    told: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """Names the task: a second copy has the same."""
        return f"{self.job}.{self.round}.{self.client_id}"


class UpdateHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about an update but its tensors: the `__metadata__` of its safetensors file.

    Attributes:
        samples: how many examples were trained on; the update's weight in the mean.
        metrics: what the training measured (`loss`, ...); finite numbers.
        base: digest of the global model that was trained.
        token: the task's.
        state: the optimizer state that goes with it, if the job carries it.
        fetched: bytes that the function had to fetch from the broker for this task; 0: all was warm.
        seconds: how long the function's steps took: `fetch`, `data`, `build`, `train`.
    """

    job: str
    round: int
    attempt: int
    client: str
    samples: int
    base: str
    token: str
    metrics: dict[str, float] = {}
    state: BlobRef | None = None
    fetched: int = 0
    seconds: dict[str, float] = {}

    def to_metadata(self) -> dict[str, str]:
        """As safetensors wants it: text to text."""
        fields = msgspec.to_builtins(self)
        return {k: v if isinstance(v, str) else msgspec.json.encode(v).decode() for k, v in fields.items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "UpdateHeader":
        """Read it back.

        Raises:
            DecodeError: a field is missing, unknown or of the wrong type.
        """
        try:
            fields = {k: v if k in _TEXTS else msgspec.json.decode(v) for k, v in metadata.items()}
            return msgspec.convert(fields, cls)
        except UNREADABLE as exc:
            raise DecodeError(f"not an update's metadata: {exc}") from exc


_TEXTS = frozenset({"job", "client", "base", "token"})

Outcome = Literal["accepted", "running", "succeeded", "refused", "restored", "failed", "dead", "expired"]


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one invocation of a client's function.

    Attributes:
        outcome: `accepted` by the platform, `running` (data and model are there, training begins), `succeeded` (the
            update is published), `refused` (the platform was away or busy; nothing ran, and it is asked again),
            `restored` (the function had vanished and was created again), `failed` (it will be invoked again), `dead`
            (given up), `expired` (its time was over).
        activation: the platform's id of the run.
        cold: whether the function had to be started for it; None: not known.
        seconds: since the bridge took the task.
    """

    job: str
    round: int
    client: str
    platform: str
    attempt: int
    outcome: Outcome
    activation: str = ""
    cold: bool | None = None
    reason: str = ""
    seconds: float = 0.0


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How a client's invocations went so far, as its bridge keeps count.

    Attributes:
        state: the last outcome.
        seen_s: when that was, seconds since the epoch.
        invocations: runs of the function that the platform accepted or that were heard of.
        failures: how many of them failed.
        cold: how many of them had to start the function.
        activation: the platform's id of the last run.
        run: job, round and attempt of the last run that was counted.
    """

    client: str
    platform: str
    state: Outcome
    seen_s: float
    invocations: int = 0
    failures: int = 0
    cold: int = 0
    activation: str = ""
    run: str = ""


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge says that it is there, again and again.

    Attributes:
        platform: whose tasks it takes.
        every_s: how often it says so; one that was not heard for three times as long is not there.
        gone: it, or its broker for it, has said goodbye.
    """

    bridge: str
    platform: str
    every_s: float
    gone: bool = False


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the client register (paper, section 3.1). Secrets are named, never held.

    Attributes:
        url: where the platform triggers the function; empty where it needs none.
        data_loc: fsspec URL of the client's shard.
        labels: what cohorts are chosen by; `data` names the deal that the shard is part of.
        samples: size of the shard; 0: not known.
        secret: name of the secret that the bridge needs.
        paused: left out of cohorts.
    """

    id: str
    platform: str
    function: str = ""
    url: str = ""
    data_loc: str = ""
    labels: dict[str, str] = {}
    samples: int = 0
    secret: str = ""
    paused: bool = False


def token(nonce: str, client: str) -> str:
    """The token of a client's task in the round that the nonce belongs to (HMAC-SHA256, RFC 2104)."""
    return hmac.new(nonce.encode(), client.encode(), hashlib.sha256).hexdigest()


def seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def client_record(payload: bytes) -> ClientRecord:
    """Decode an entry of the client register.

    Raises:
        DecodeError: it is none.
    """
    try:
        return msgspec.json.decode(payload, type=ClientRecord)
    except UNREADABLE as exc:
        raise DecodeError(f"not an entry of the client register: {exc}") from exc


def tally(payload: bytes) -> Tally:
    """Decode a tally.

    Raises:
        DecodeError: it is none.
    """
    try:
        return msgspec.json.decode(payload, type=Tally)
    except UNREADABLE as exc:
        raise DecodeError(f"not a tally: {exc}") from exc


def presence(payload: bytes) -> Presence:
    """Decode a bridge's presence.

    Raises:
        DecodeError: it is none.
    """
    try:
        return msgspec.json.decode(payload, type=Presence)
    except UNREADABLE as exc:
        raise DecodeError(f"not a bridge's presence: {exc}") from exc
