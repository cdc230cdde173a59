"""Errors of messages. Errors of their transport are in `broker.errors`.

MessageError
├── DecodeError       bytes that are not the expected message
│   ├── SchemaTooNew  a message of a newer schema
│   ├── BadTensors    not an acceptable safetensors file
│   └── BadSignature  a call that the bridge did not sign, that is too old, or that was made before
├── NoSuchModel       a model that a job does not have
└── JobError          a job that cannot run: its wrong fields, their values, what is allowed
"""

from collections.abc import Sequence
from typing import Final

from broker.support import texts
from broker.support.validation import Mistake, in_file

_MAX_SHOWN: Final = 200


class MessageError(Exception):
    """Root of the messages' errors."""


class DecodeError(MessageError):
    """Raised for bytes that are not the expected message."""


class SchemaTooNew(DecodeError):
    """Raised for a message with a newer schema than this program knows.

    Attributes:
        kind: class name of the message.
        got: the message's schema.
        known: the newest schema that this program knows.
        upgrade: which side to upgrade.
    """

    def __init__(self, kind: str, got: int, known: int, upgrade: str) -> None:
        super().__init__(f"{kind} has schema {got}, this program knows {known}: {upgrade}")
        self.kind = kind
        self.got = got
        self.known = known
        self.upgrade = upgrade


class BadTensors(DecodeError):
    """Raised for bytes that are not an acceptable safetensors file."""


class BadSignature(DecodeError):
    """Raised for a call that the bridge did not sign, that is too old, or that was made before."""


class NoSuchModel(MessageError):
    """Raised for a model that a job does not have.

    Attributes:
        job: the job's id.
        which: the model: `last`, `best`, or its round; None: there is no such job.
        kept: the rounds whose models the job has; 0 is the initial one.
    """

    def __init__(self, job: str, which: str | int | None, kept: tuple[int, ...]) -> None:
        if which is None:
            message = f"no job {job!r} is known to this broker"
        elif not kept:
            message = f"job {job} has no model yet"
        elif which == "best":
            message = f"job {job} has no best model: evaluation.best names the metric that decides"
        else:
            rounds = ", ".join(map(str, kept))
            message = f"job {job} does not keep the model of round {which}, but those of {rounds}: see model.keep_every"
        super().__init__(message)
        self.job = job
        self.which = which
        self.kept = kept


class JobError(MessageError):
    """Raised for a job that cannot run.

    Attributes:
        errors: every mistake that was found: its field, value, what is allowed, and its line in the file.
        file: name of the job's file; empty: the job is no file.
        field: dotted name of the first wrong field, such as `cohort.clients`; empty: the whole job.
        value: that field's value; None: there is no value to show.
        allowed: what that field allows.
    """

    def __init__(
        self, field: str, value: object, allowed: str, *, errors: Sequence[Mistake] = (), file: str = ""
    ) -> None:
        self.errors = tuple(errors) or (Mistake(field, value, allowed),)
        self.file = file
        self.field = texts.shortened(field, _MAX_SHOWN)
        self.value = value
        self.allowed = allowed
        super().__init__(in_file(file, self.errors) if file else texts.shortened(str(self.errors[0])))

    @classmethod
    def of(cls, errors: Sequence[Mistake], file: str = "") -> "JobError":
        """Return the error for the mistakes of a job.

        Args:
            errors: the mistakes, at least one.
            file: name of the job's file; empty: the job is no file.
        """
        first = errors[0]
        return cls(first.field, first.value, first.allowed, errors=errors, file=file)

    @property
    def shown(self) -> str:
        """The value as a text of at most a few lines."""
        return self.errors[0].shown
