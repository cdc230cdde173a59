"""What a bridge needs of a FaaS platform."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from broker.messages.function import Change, Deployed, Function
from broker.messages.round import RoundTask


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
    """A kind of place where functions run. One adapter each; the runner does the rest for all of them.

    Attributes:
        name: the level of the task topics, `fl.tasks.<name>.<client>`.
        concurrency: how many invocations may be under way at once.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (see the class)

    @property
    def concurrency(self) -> int: ...  # noqa: D102

    def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Run the client's function for a task, as far as the platform can follow it.

        Yields what is known of the run, each state once; after `succeeded` the update is with the broker. A platform
        that can't tell how a run ends (Pub/Sub) yields `accepted` and no more: what the function itself reports on its
        topic, the runner hears. Closing the generator early gives the run up.

        Raises:
            InvocationFailed: it did not come to its end; the subclass tells whether it began.
            PlatformDenied: the credentials are refused.
        """


class Host(Platform, Protocol):
    """A platform whose functions are created and deleted through its bridge.

    Attributes:
        per_minute: how many invocations the platform takes in a minute; 0: it does not say.
        start_s: how long after `accepted` a function must have reported that it trains.
        run_s: how long after that it must be done.
    """

    @property
    def per_minute(self) -> int: ...  # noqa: D102

    @property
    def start_s(self) -> float: ...  # noqa: D102

    @property
    def run_s(self) -> float: ...  # noqa: D102

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:
        """Bring a function to what it should be, and wait until it can be invoked; harmless to do again.

        Args:
            function: what it should be; its `fabric` and `digest` are kept with it on the platform.
            package: the content of `function.package`.

        Raises:
            PlatformFailed: it could not be done; a function of that name that is not ours is left alone.
            PlatformDenied: the credentials are refused.
            SecretMissing: a secret that the function needs is not here.
        """

    async def delete(self, name: str) -> Change:
        """Delete a function of ours and what belongs to it; `absent` if there was none.

        Raises:
            PlatformFailed: it could not be done, or the function is somebody else's.
            PlatformDenied: the credentials are refused.
        """

    async def list(self) -> list[Deployed]:
        """Every function there, ours and those of others.

        Raises:
            PlatformFailed: it could not be done.
            PlatformDenied: the credentials are refused.
        """


@runtime_checkable
class Connecting(Protocol):
    """A host that also hands events to functions of others, which ask for them by an annotation."""

    async def serve(self) -> None:
        """Do so until cancelled."""
