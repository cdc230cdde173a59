"""What is wrong with a message; what is wrong with its transport is in `broker.errors`.

MessageError
├── DecodeError       bytes that are not the message they should be
│   ├── SchemaTooNew  a message of a newer version
│   ├── BadTensors    not a safetensors file that we accept
│   └── BadSignature  a call that is not the bridge's, too old, or a repetition
└── JobError          a job that can't be run: one field, its value, what is allowed
"""

from typing import Final

_SHOWN: Final = 200


class MessageError(Exception):
    """Root of the messages' errors."""


class DecodeError(MessageError):
    """Raised for bytes that are not the message they should be."""


class SchemaTooNew(DecodeError):
    """Raised for a message of a newer schema than this program knows.

    Attributes:
        kind: class of the message.
        got: its schema.
        known: the newest one that this program knows.
        upgrade: which side to upgrade.
    """

    def __init__(self, kind: str, got: int, known: int, upgrade: str) -> None:
        super().__init__(f"{kind} has schema {got}, this program knows {known}: {upgrade}")
        self.kind = kind
        self.got = got
        self.known = known
        self.upgrade = upgrade


class BadTensors(DecodeError):
    """Raised for bytes that are not a safetensors file that we accept."""


class BadSignature(DecodeError):
    """Raised for a call that is not the bridge's, too old, or a repetition."""


class JobError(MessageError):
    """Raised for a job that can't be run."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        given = "" if value is None else f" = {self.shown}"
        super().__init__(f"{field}{given}: {allowed}" if field else allowed)

    @property
    def shown(self) -> str:
        """The value as a text that fits on a few lines."""
        try:
            text = repr(self.value)
        except ValueError:
            # Python writes no integer of more than 4300 digits.
            return "a number of thousands of digits"
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
