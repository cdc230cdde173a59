"""An update: one safetensors file whose metadata says everything about it but its tensors."""

from typing import ClassVar, Final

import msgspec

from broker.errors import UNREADABLE
from broker.messages import codec, tensor_header
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.round import BlobRef


class UpdateHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about an update but its tensors: the `__metadata__` of its safetensors file.

    Attributes:
        samples: how many examples were trained on; the update's weight in the mean.
        metrics: what the training measured (`loss`, ...); finite numbers.
        base: digest of the global model that was trained.
        token: the task's.
        state: the optimizer state that goes with it, if the job carries it.
        fetched: bytes that the function had to fetch from the broker for this task; 0: all was warm.
        seconds: how long the function's steps took: `fetch`, `data`, `build`, `train`.
        schema: version of the message.
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
    state: BlobRef | None = None
    fetched: int = 0
    seconds: dict[str, float] = {}
    schema: int = codec.SCHEMA

    def to_metadata(self) -> dict[str, str]:
        """As safetensors wants it: text to text."""
        fields = msgspec.to_builtins(self)
        return {k: v if isinstance(v, str) else codec.encode(v).decode() for k, v in fields.items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "UpdateHeader":
        """Read it back. What this version does not know is ignored: it may be any text.

        Raises:
            SchemaTooNew: it is of a newer schema.
            DecodeError: a field is missing or of the wrong type.
        """
        try:
            codec.check_schema(cls, codec.plain(metadata.get("schema", "1")))
            known = {name: metadata[name] for name in cls.__struct_fields__ if name in metadata}
            fields = {k: v if k in _TEXTS else codec.plain(v) for k, v in known.items()}
            return msgspec.convert(fields, cls)
        except SchemaTooNew:
            raise
        except (*UNREADABLE, DecodeError) as exc:
            raise DecodeError(f"not an update's metadata: {exc}") from exc


MOST_TENSORS: Final = 1 << 14
"""An update with more of them has too large a header to be read without knowing the model."""


def read_header(update: bytes) -> UpdateHeader:
    """What an update says of itself; its tensors are not looked at, and may be anything.

    Raises:
        SchemaTooNew: it is of a newer schema.
        DecodeError: it is no safetensors file with an update's metadata, or its header is larger than 8 MiB.
    """
    header, _ = tensor_header.read(update, expected=MOST_TENSORS)
    return UpdateHeader.from_metadata(tensor_header.metadata(header))


_TEXTS = frozenset({"job", "client", "base", "token"})
