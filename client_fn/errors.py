"""Everything that the package raises.

ClientError
├── DataMissing        a dataset or a shard is not where it was looked for
├── BadData            a dataset's file is not the one it should be
├── BadPartition            the samples can't be dealt to so many clients
├── BadShard           a shard that is no shard
├── BadModel           a model that can't be imported, constructed or sent
├── WrongTensors       tensors that are not the model's
├── TrainingFailed     the model can't be trained (or evaluated) on this data
│   └── Diverged       the loss is no finite number any more
├── BlobMissing        the broker does not hold what the task starts from
├── BaseMismatch       what the task starts from has another digest than announced
├── BadState           optimizer state that does not fit the optimizer
├── LeaseOver          the time for the task is over
├── WrongClient        the task is another client's
├── TopicTaken         something else lies where the update should go
├── NoRoute            the function does not know where the broker is
├── InstanceEnded      the instance ended in the middle of the task
└── BadSettings        the function's environment can't be used
"""

from typing import ClassVar


class ClientError(Exception):
    """Root of the package's errors.

    Attributes:
        retryable: whether another attempt at the same task may have another outcome.
    """

    retryable: ClassVar[bool] = False


class DataMissing(ClientError):
    """Raised when a dataset or a shard is not where it was looked for; `remedy` says what to do."""

    retryable = True

    def __init__(self, dataset: str, where: str, remedy: str) -> None:
        super().__init__(f"no data {dataset!r} at {where}: {remedy}")
        self.dataset = dataset
        self.where = where
        self.remedy = remedy


class BadData(ClientError):
    """Raised when a dataset's file is not the one it should be."""

    def __init__(self, where: str, reason: str, remedy: str) -> None:
        super().__init__(f"{where}: {reason}; {remedy}")
        self.where = where
        self.reason = reason
        self.remedy = remedy


class BadPartition(ClientError):
    """Raised when the samples can't be dealt as asked: every client needs at least one."""

    def __init__(self, samples: int, needed: int) -> None:
        super().__init__(f"{samples} samples can't be dealt into {needed} parts of at least one")
        self.samples = samples
        self.needed = needed


class BadShard(ClientError):
    """Raised for bytes that are no shard, or a shard that can't be written there."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"shard {where}: {reason}")
        self.where = where
        self.reason = reason


class BadModel(ClientError):
    """Raised for a model that can't be imported, constructed or sent; `type` is the job's `model.type`."""

    def __init__(self, type_: str, reason: str, remedy: str) -> None:
        super().__init__(f"model {type_!r}: {reason}; {remedy}")
        self.type = type_
        self.reason = reason
        self.remedy = remedy


class WrongTensors(ClientError):
    """Raised when tensors are not the model's: their names, shapes or dtypes differ."""

    def __init__(self, missing: tuple[str, ...], unexpected: tuple[str, ...], changed: tuple[str, ...]) -> None:
        found = {"missing": missing, "unexpected": unexpected, "of another shape or dtype": changed}
        shown = [f"{what}: {', '.join(names)}" for what, names in found.items() if names]
        super().__init__(f"not this model's tensors; {'; '.join(shown)}")
        self.missing = missing
        self.unexpected = unexpected
        self.changed = changed


class TrainingFailed(ClientError):
    """Raised when the model can't be trained, or evaluated, on this data."""


class Diverged(TrainingFailed):
    """Raised when the loss is no finite number any more."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"the loss is {loss} after local epoch {epoch}: try a smaller learning rate")
        self.epoch = epoch
        self.loss = loss


class BlobMissing(ClientError):
    """Raised when the broker does not hold what the task starts from."""

    retryable = True

    def __init__(self, topic: str) -> None:
        super().__init__(f"the broker holds nothing at {topic}")
        self.topic = topic


class BaseMismatch(ClientError):
    """Raised when the model or state that the task starts from has another digest than announced."""

    retryable = True

    def __init__(self, topic: str, expected: str, got: str) -> None:
        super().__init__(f"{topic} has SHA-256 {got}, the task announces {expected}")
        self.topic = topic
        self.expected = expected
        self.got = got


class BadState(ClientError):
    """Raised for optimizer state that does not fit the optimizer."""


class LeaseOver(ClientError):
    """Raised when the time for a task is over: nothing was published, and nothing will be."""

    def __init__(self, task: str, deadline_s: float) -> None:
        super().__init__(f"task {task}: its deadline {deadline_s:.3f} is over")
        self.task = task
        self.deadline_s = deadline_s


class WrongClient(ClientError):
    """Raised when a client's function gets another client's task."""

    def __init__(self, wanted: str, here: str) -> None:
        super().__init__(f"a task for {wanted}, and this is the function of {here}: correct the register or the route")
        self.wanted = wanted
        self.here = here


class TopicTaken(ClientError):
    """Raised when something else lies where the update should go; the next attempt's update has its own topic."""

    retryable = True

    def __init__(self, topic: str) -> None:
        super().__init__(f"{topic} holds something that is no answer to this task")
        self.topic = topic


class NoRoute(ClientError):
    """Raised when the function does not know where the broker is."""

    def __init__(self) -> None:
        super().__init__("this function has no broker: set FEDKEEPER_URL, or have the bridge send parcels")


class InstanceEnded(ClientError):
    """Raised when the instance ended in the middle of the task."""

    retryable = True


class BadSettings(ClientError):
    """Raised for an environment that the function can't be set up by; `name` is the variable's."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason
