"""What a bridge needs of a FaaS platform."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from broker.messages import RoundTask


@dataclass(frozen=True, slots=True)
class Activation:
    """How far a run of a function has got.

    Attributes:
        id: the platform's name for the run.
        state: `accepted` by the platform, `running` (training has begun), `succeeded` (the update is published).
        cold: whether the function had to be started for it; None: not known.
    """

    id: str
    state: Literal["accepted", "running", "succeeded"]
    cold: bool | None = None


class Platform(Protocol):
    """A kind of place where functions run. One adapter file each; the runner does the rest for all of them.

    Attributes:
        name: the level of the task topics, `fl.tasks.<name>.<client>`.
        concurrency: how many invocations may be under way at once.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (see the class)

    @property
    def concurrency(self) -> int: ...  # noqa: D102

    def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Run the client's function for a task, to its end.

        Yields what is known of the run, each state once; after `succeeded` the update is with the broker. Closing the
        generator early gives the run up.

        Raises:
            InvocationFailed: it did not come to its end.
        """
