"""An update: one safetensors file whose metadata says everything about it but its tensors."""

import msgspec

from broker.errors import UNREADABLE
from broker.messages.errors import DecodeError
from broker.messages.round import BlobRef


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
