"""The package's errors. A failed report's reason begins with the name of the error's class.

ClientError
├── DataMissing        a dataset or a shard is not where it is expected
├── DataNotAllowed     the site's settings do not allow to read the shard there
├── DataUnreadable     a shard can't be read now
├── BadData            a dataset file, a shard or a partition can't be used
├── BadModel           a model can't be built, or the weights belong to another model
├── TrainingFailed     the model can't be trained or evaluated on this data
├── BlobMissing        the broker does not have the model or the state that the task names
├── LeaseOver          the task's deadline has passed
├── WrongClient        the task belongs to another client
├── TopicTaken         the update's topic holds something else
├── NoRoute            the function has no broker address
├── InstanceEnded      the instance stopped during the task
└── BadSettings        an environment variable can't be used
"""

from typing import ClassVar


class ClientError(Exception):
    """Root of the package's errors.

    Attributes:
        retryable: whether another attempt at the same task may succeed.
    """

    retryable: ClassVar[bool] = False


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
    """

    def __init__(self, where: str, setting: str, reason: str) -> None:
        super().__init__(f"shard {where}: {reason}")
        self.where = where
        self.setting = setting


class DataUnreadable(ClientError):
    """Raised when a shard's store fails, or the shard changes while it is read.

    Attributes:
        where: path or URL of the shard, without secrets.
    """

    retryable = True

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"shard {where}: {reason}")
        self.where = where


class BadData(ClientError):
    """Raised when a dataset file has wrong content, a shard is invalid, or there are too few samples to partition.

    Attributes:
        where: path or URL of the file, without secrets; empty if no file is concerned.
        reason: the message without the path and the remedy; the whole message if it has neither.
    """

    def __init__(self, message: str, *, where: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.reason = reason or message


class BadModel(ClientError):
    """Raised when a model can't be imported or constructed, or when weights do not match the model.

    Attributes:
        type: the job's `model.type`; empty if only the weights are wrong.
    """

    def __init__(self, message: str, *, type_: str = "") -> None:
        super().__init__(message)
        self.type = type_


class TrainingFailed(ClientError):
    """Raised when the model can't be trained or evaluated on this data, or its loss is no longer finite."""


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
        deadline_s: seconds since the epoch.
    """

    def __init__(self, task: str, deadline_s: float) -> None:
        super().__init__(f"task {task}: its deadline {deadline_s:.3f} is over")
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
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
