"""An update: one safetensors file; its metadata is the `UpdateHeader`."""

import re
from collections.abc import Mapping
from typing import ClassVar, Final, Literal

import msgspec

from broker import topics
from broker.errors import BadTopic
from broker.messages import codec, tensor_header
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.round import OPTIMIZER_STATE, BlobRef
from broker.messages.update_forms import UpdateForm
from broker.support.decoding import UNREADABLE

_TEXT_FIELDS: Final = frozenset(
    {
        *("job", "client", "base", "token", "code", "shard", "metrics_scope", "update", "strategy", "personal"),
        "processor",
    }
)
"""Fields that are texts in the metadata; the values of all others are JSON."""

_PROCESSOR: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,47}")


class UpdateHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about an update except its tensors: the `__metadata__` of its safetensors file.

    Attributes:
        samples: number of examples that the client trained on; the update's weight in the mean.
        metrics: metrics that the training measured (`loss`, ...); finite numbers.
        base: digest of the global model that the training started from.
        token: the task's token.
        states: the client's states after the training, by name: `opt` is the optimizer's, if the job carries it. An
            update of an older version names that one in a field `state`.
        fetched: bytes that the function fetched from the broker for this task; 0: everything was cached.
        seconds: duration of the function's steps `fetch`, `data`, `build`, `judge` and `train`, in seconds.
        code: SHA-256 digest of the user's code that trained; empty: the model is ours or an installed package's.
        shard: keyed digest of the data that it trained on (HMAC-SHA256, RFC 2104); only the site has the key, so only
            the site can tell whose data it was.
        metrics_scope: `client`: the metrics may be shown with the client; `sum`: only as the mean of a round.
        update: what the tensors are: `delta`, the change since the round's model; `weights`, the trained tensors;
            `bf16` or `fp16`, a `delta` whose weights are of that dtype; `int8`, one whose weights are I8 integers times
            powers of two: `int8.scales` (I16) has the exponents, one for each 256 values of a tensor one after the
            other and for the rest of it, the tensors in the order of their names. Only what becomes smaller is
            rounded; buffers, integers and tensors of the strategy's are as in a `delta`.
        strategy: name of the strategy that the function applied.
        judged: number of the client's held-out samples that it has judged the round's model with; 0: none.
        evaluation: what that gave, by metric, for this client alone.
        personal: SHA-256 digest of the client's own tensors after the training, which stay at the site; empty: none.
        processor: the kind of processor that trained, such as `x86-64 Intel AVX512`; empty: an older version wrote it.
        schema: schema number of the message.
    """

    upgrade: ClassVar = "upgrade the server to the version of the functions"

    job: str
    round: int
    attempt: int
    client: str
    samples: int
    base: str
    token: str
    metrics: dict[str, float] = {}
    states: dict[str, BlobRef] = {}
    fetched: int = 0
    seconds: dict[str, float] = {}
    code: str = ""
    shard: str = ""
    metrics_scope: Literal["client", "sum"] = "client"
    update: UpdateForm = "weights"
    strategy: str = "fedavg"
    judged: int = 0
    evaluation: dict[str, float] = {}
    personal: str = ""
    processor: str = ""
    schema: int = codec.SCHEMA

    def to_metadata(self) -> dict[str, str]:
        """Encode the header as safetensors metadata, a table of texts."""
        fields = msgspec.to_builtins(self)
        return {k: v if isinstance(v, str) else codec.encode(v).decode() for k, v in fields.items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "UpdateHeader":
        """Decode safetensors metadata. Unknown fields are ignored, whatever text they hold.

        Raises:
            SchemaTooNew: the update has a newer schema than this program knows.
            DecodeError: a field is missing or has the wrong type.
        """
        try:
            codec.check_schema(cls, codec.decode_any(metadata.get("schema", "1")))
            known = {name: metadata[name] for name in cls.__struct_fields__ if name in metadata}
            fields = {k: v if k in _TEXT_FIELDS else codec.decode_any(v) for k, v in known.items()}
            return msgspec.convert(_old_states(metadata) | fields, cls)
        except SchemaTooNew:
            raise
        except (*UNREADABLE, DecodeError) as exc:
            raise DecodeError(f"not an update's metadata: {exc}") from exc


def _old_states(metadata: Mapping[str, str]) -> dict[str, object]:
    """Return `states` as an update of an older version tells it: one optimizer state, in `state`."""
    state = codec.decode_any(metadata.get("state", "null"))
    return {} if state is None else {"states": {OPTIMIZER_STATE: state}}


def own_states(header: UpdateHeader) -> dict[str, BlobRef]:
    """Return the states of an update that are under topics of its own.

    A client writes its updates: nobody may copy or delete whatever topic an update names.
    """
    return {name: ref for name, ref in header.states.items() if ref.topic in _state_topics(header, name)}


def _state_topics(header: UpdateHeader, name: str) -> tuple[str, ...]:
    owner = header.job, header.client, header.round, header.attempt
    try:
        topic = topics.client_state(*owner, topics.checked_id(name))
    except BadTopic:
        return ()
    return (topic, topics.client_state(*owner, None)) if name == OPTIMIZER_STATE else (topic,)


def checked_processor(text: object) -> str:
    """Return a kind of processor as others have told it: letters, digits, spaces and `_.+-`; anything else is empty."""
    return text if isinstance(text, str) and _PROCESSOR.fullmatch(text) else ""


def read_header(update: bytes) -> UpdateHeader:
    """Decode the header of an update. The tensors are not read and not checked.

    Raises:
        SchemaTooNew: the update has a newer schema than this program knows.
        DecodeError: the payload is not a safetensors file with an update's metadata, or its header is larger than
            8 MiB.
    """
    header, _ = tensor_header.read(update, expected=tensor_header.MAX_TENSORS)
    return UpdateHeader.from_metadata(tensor_header.metadata(header))
