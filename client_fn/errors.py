"""The package's errors. A failed report's reason begins with the name of the error's class.

ClientError
├── DataMissing        a dataset or a shard is not where it is expected
├── DataNotAllowed     the site's settings do not allow to read the shard there
├── DataUnreadable     a shard can't be read now
├── BadData            a dataset file, a shard or a partition can't be used
├── UserCodeFailed     the user's code failed, or what it was given does not fit
│   ├── BadModel           a model can't be built, or the weights belong to another model
│   └── TrainingFailed     the model can't be trained or evaluated on this data
├── TrainerDied        the process that runs the user's code ended before its work was done
│   └── LimitExceeded      it was ended, because it used too much memory or time
├── BadCode            the user's code can't be packed
├── CodeDiffers        the job's code is not here
├── NotAllowed         the operator did not allow code that the job names
├── RequirementsMissing  libraries that the user's code needs are not installed
├── PersonalMissing    the client's personal layers are not where its task says, or are others
├── PersonalNotKept    there is no place where the client's personal layers can be kept
├── BlobMissing        the broker does not have the model or the state that the task names
├── LeaseOver          the task's deadline has passed
├── WrongClient        the task belongs to another client
├── TopicTaken         the update's topic holds something else
├── NoRoute            the function has no broker address
├── InstanceEnded      the instance stopped during the task
└── BadSettings        an environment variable can't be used
"""

from pathlib import Path


class ClientError(Exception):
    """Root of the package's errors.

    Attributes:
        retryable: whether another attempt at the same task may succeed.
        is_of_site: whether the settings of the site are at fault, so that no task could run there.
    """

    retryable: bool = False
    is_of_site: bool = False

    def message(self, *, reveal: bool) -> str:  # noqa: ARG002 (of use in subclasses)
        """Return the message for others than the site's operator.

        Args:
            reveal: include texts of the user's code, which may hold data.
        """
        return str(self)


class DataMissing(ClientError):
    """Raised when a dataset or a shard is not where it is expected.

    Attributes:
        where: the folder or URL that was searched.
        remedy: what the user can do.
    """

    retryable = True

    def __init__(self, dataset: str, where: str, remedy: str) -> None:
        super().__init__(f"no data {dataset!r} at {where}: {remedy}")
        self.where = where
        self.remedy = remedy


class DataNotAllowed(ClientError):
    """Raised when a shard lies where the site's settings allow no data, or is larger than they allow.

    Attributes:
        where: path or URL of the shard, without secrets.
        setting: the environment variable that decides.
        reason: the message without the path.
    """

    def __init__(self, where: str, setting: str, reason: str) -> None:
        super().__init__(f"shard {where}: {reason}")
        self.where = where
        self.setting = setting
        self.reason = reason


class DataUnreadable(ClientError):
    """Raised when a shard's store fails, or the shard changes while it is read.

    Attributes:
        where: path or URL of the shard, without secrets.
        reason: the message without the path.
    """

    retryable = True

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"shard {where}: {reason}")
        self.where = where
        self.reason = reason


class BadData(ClientError):
    """Raised when a dataset file has wrong content, a shard is invalid, or there are too few samples to partition.

    Attributes:
        where: path or URL of the file, without secrets; empty if no file is concerned.
        reason: the message without the path and the remedy; the whole message if it has neither.
        content: names from the file, such as a column's, which the message does not hold; empty: none.
    """

    def __init__(self, message: str, *, where: str = "", reason: str = "", content: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.reason = reason or message
        self.content = content

    def __str__(self) -> str:
        return self.message(reveal=True)

    def message(self, *, reveal: bool) -> str:
        """Implements `ClientError.message`."""
        message = str(self.args[0])
        return f"{message} ({self.content})" if reveal and self.content else message


class RequirementsMissing(ClientError):
    """Raised when libraries that the user's code needs are not installed. Nothing is installed because a job says so.

    Attributes:
        missing: each requirement, and what is installed instead.
    """

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(f"the code's requirements.txt asks for {', '.join(missing)}: install that where it trains")
        self.missing = missing


OF_MEMORY = frozenset({"MemoryError", "OutOfMemoryError"})
"""Causes of a `UserCodeFailed` that say that the memory was too small."""


class UserCodeFailed(ClientError):
    """Root of the errors about the user's code. An exception's text may hold data, so it is kept apart.

    Attributes:
        sentence: what happened, in our words and without data.
        cause: name of the exception's class; empty if the user's code raised none.
        where: its file and line in the user's code, such as `mine.py:12`; empty if unknown.
        text: its text.
    """

    def __init__(self, sentence: str, *, cause: str = "", where: str = "", text: str = "") -> None:
        super().__init__(sentence, cause, where, text)
        self.sentence = sentence
        self.cause = cause
        self.where = where
        self.text = text

    def __str__(self) -> str:
        return self.message(reveal=True)

    def message(self, *, reveal: bool) -> str:
        """Implements `ClientError.message`."""
        place = f" in {self.where}" if self.where else ""
        cause = f": {self.cause}{place}" if self.cause else ""
        if not (self.cause and self.text):
            return f"{self.sentence}{cause}"
        return f"{self.sentence}{cause}: {self.text}" if reveal else f"{self.sentence}{cause} (its text is in the log)"


class BadModel(UserCodeFailed):
    """Raised when a model can't be imported or constructed, or when weights do not match the model."""


class TrainingFailed(UserCodeFailed):
    """Raised when the model can't be trained or evaluated on this data, or its loss is no longer finite."""


class BadCode(ClientError):
    """Raised when the user's code can't be packed, or when its requirements.txt has a wrong line.

    Attributes:
        where: the file or folder.
        reason: the message without it.
    """

    is_of_site = True

    def __init__(self, where: Path | str, reason: str) -> None:
        super().__init__(f"code {where}: {reason}")
        self.where = str(where)
        self.reason = reason


class CodeDiffers(ClientError):
    """Raised when the job's code is not here.

    Attributes:
        wanted: first digits of the digest of the code that the server holds.
        held: first digits of the digest of the code that is here; empty: none.
    """

    def __init__(self, wanted: str, held: str) -> None:
        here = f"code {held} is here" if held else "no code is here"
        super().__init__(
            f"the server holds code {wanted or 'none'}, {here}: start it with the same `--code`, "
            "or deploy the function again"
        )
        self.wanted = wanted
        self.held = held


class NotAllowed(ClientError):
    """Raised when a job names code that the operator of this machine did not allow.

    Attributes:
        type: what the job names, such as its `model.type`.
        remedy: what to do, and by whom.
    """

    def __init__(self, type_: str, remedy: str) -> None:
        super().__init__(f"{type_!r} is not allowed here: {remedy}")
        self.type = type_
        self.remedy = remedy


class TrainerDied(ClientError):
    """Raised when the process that runs the user's code ended before its work was done.

    Attributes:
        sentence: during which step it ended and how, without data.
        lines: the last lines that it printed; they may hold data.
        retryable: whether a signal ended it. An exit code is the code's own choice and would come again.
    """

    def __init__(self, sentence: str, lines: tuple[str, ...] = (), *, retryable: bool = False) -> None:
        super().__init__(sentence, lines)
        self.sentence = sentence
        self.lines = lines
        self.retryable = retryable

    def __str__(self) -> str:
        return self.message(reveal=True)

    def message(self, *, reveal: bool) -> str:
        """Implements `ClientError.message`."""
        if not self.lines:
            return self.sentence
        return f"{self.sentence}; it printed: {' | '.join(self.lines)}" if reveal else self.sentence


class LimitExceeded(TrainerDied):
    """Raised when the user's code was ended because it used more memory or time than the site allows."""


class PersonalMissing(ClientError):
    """Raised when the file of the client's personal layers that the task names is not there, or is another one.

    Attributes:
        where: its path or URL, without secrets.
        retryable: whether the place may only be away.
    """

    def __init__(self, where: str, reason: str, *, retryable: bool) -> None:
        super().__init__(f"personal layers {where}: {reason}")
        self.where = where
        self.retryable = retryable


class PersonalNotKept(ClientError):
    """Raised when there is no place where the client's personal layers can be kept.

    Attributes:
        where: path or URL of the place, without secrets; empty: there is none.
        retryable: whether the place could be written when the task began.
    """

    def __init__(self, where: str, reason: str, *, retryable: bool = False) -> None:
        super().__init__(f"personal layers {where}: {reason}" if where else f"personal layers: {reason}")
        self.where = where
        self.retryable = retryable


class BlobMissing(ClientError):
    """Raised when the broker does not have the bytes that the task starts from.

    Attributes:
        topic: the topic that the task names.
    """

    retryable = True

    def __init__(self, topic: str, message: str) -> None:
        super().__init__(message)
        self.topic = topic


class LeaseOver(ClientError):
    """Raised when the task's deadline has passed. Nothing was published, and nothing will be.

    Attributes:
        task: the task's id.
        deadline_s: seconds since the epoch, on the server's clock.
    """

    def __init__(self, task: str, deadline_s: float) -> None:
        super().__init__(f"task {task}: its deadline is over")
        self.task = task
        self.deadline_s = deadline_s


class WrongClient(ClientError):
    """Raised when a client's function receives another client's task."""


class TopicTaken(ClientError):
    """Raised when the update's topic holds something else. Retryable: the next attempt has its own topic."""

    retryable = True


class NoRoute(ClientError):
    """Raised when the function needs the broker and has no address for it."""


class InstanceEnded(ClientError):
    """Raised when the instance stops during the task."""

    retryable = True


class BadSettings(ClientError):
    """Raised when the function can't be set up from its environment.

    Attributes:
        name: the environment variable.
        reason: its value, what is wrong with it, and what to do.
    """

    is_of_site = True

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason
