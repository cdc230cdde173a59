"""The interface between a bridge and a FaaS platform. A new platform implements `PlatformModule`."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from bridges.errors import PlatformFailed
from bridges.secrets import SecretStore
from bridges.settings import PlatformSettings
from broker.base import Broker
from broker.messages.data_report import DataCheck, DataReport
from broker.messages.function import Change, Deployed, Function
from broker.messages.round import RoundTask

SettingsT = TypeVar("SettingsT", bound=PlatformSettings)
FunctionsT = TypeVar("FunctionsT", bound="Functions | None")


@dataclass(frozen=True, slots=True)
class Activation:
    """A state of a function's run, as its platform tells it.

    Attributes:
        id: the platform's id of the run.
        state: `called` (one call is the whole run: until its answer only the function itself tells how the run goes),
            `accepted` by the platform, `running` (training has begun), `succeeded` (the update is published).
        cold: whether the platform had to start the function for this run; None: not known.
    """

    id: str
    state: Literal["called", "accepted", "running", "succeeded"]
    cold: bool | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of a platform, for its bridge's presence.

    Attributes:
        processor: the kind of processor that models train with; empty: not known.
        device: the device that they train on, as torch names it; empty: as the job says, or not known.
        problem: what fails, as one sentence; empty: nothing.
        is_able: whether any task can run.
    """

    processor: str = ""
    device: str = ""
    problem: str = ""
    is_able: bool = True


class Platform(Protocol):
    """Runs tasks. The runner needs nothing else of a platform.

    Attributes:
        name: name of the platform: the level of the task topics, `fl.tasks.<name>.<client>`.
        concurrency: how many invocations may be in progress at once.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (see the class)

    @property
    def concurrency(self) -> int: ...  # noqa: D102

    def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Run the client's function for a task, and follow the run as far as the platform can.

        Yields each state of the run once. `succeeded` means that the update is with the broker. A platform that can't
        tell how a run ends (Pub/Sub) yields only `accepted`: the runner receives the function's own reports as well.
        To close the generator early gives the run up.

        Args:
            task: the task to run.
            attempt: number of the attempt, from 1.

        Raises:
            InvocationFailed: the run did not succeed; the subclass tells whether it began.
            BridgeError: the run could not be started or followed. It ends this invocation, not the bridge.
        """


class Functions(Protocol):
    """Creates, deletes and lists the functions of a platform."""

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:
        """Create or update a function, and wait until it can be invoked. Idempotent.

        Args:
            function: the function as it should be. The platform keeps its `fabric` and `digest` with it.
            package: the content of `function.package`; None if it names none.

        Returns:
            What was changed, and the function as the platform has it now.

        Raises:
            PlatformFailed: it could not be done. A function of that name that is not ours is left alone.
            PlatformDenied: the platform refuses the credentials.
            SecretMissing: this bridge lacks a secret that the function needs.
        """

    async def delete(self, name: str) -> Change:
        """Delete a function of ours and what belongs to it. Returns `absent` if it does not exist.

        Raises:
            PlatformFailed: it could not be done, or the function is not ours.
            PlatformDenied: the platform refuses the credentials.
        """

    async def list(self) -> list[Deployed]:
        """All functions on the platform, ours and others.

        Raises:
            PlatformFailed: it could not be done.
            PlatformDenied: the platform refuses the credentials.
        """


class ManagedPlatform(Platform, Protocol):
    """A platform that a bridge can run. `BasePlatform` implements everything but `invoke` and `run_s`.

    Attributes:
        per_minute: how many invocations the platform accepts in a minute; 0: no limit is known.
        start_s: seconds from the platform's last event of a run until the function must report that it trains; a cold
            start is part of this time.
        run_s: longest silence of a run that trains, for a function that does not say how often it reports; seconds.
        functions: creates, deletes and lists functions; None if clients need no function of their own.
        condition: what the bridge's presence says of it.
    """

    @property
    def condition(self) -> Condition: ...  # noqa: D102

    @property
    def per_minute(self) -> int: ...  # noqa: D102

    @property
    def start_s(self) -> float: ...  # noqa: D102

    @property
    def run_s(self) -> float: ...  # noqa: D102

    @property
    def functions(self) -> Functions | None: ...  # noqa: D102

    async def check(self, check: DataCheck) -> DataReport:
        """Look at a client's data, and say what it is without any value of it.

        Raises:
            BridgeError: nobody can look there now.
        """

    async def serve(self) -> None:
        """Do the platform's own background work until it is done, or until cancelled."""


class BasePlatform(Generic[SettingsT, FunctionsT]):
    """Base of a `ManagedPlatform`, made of its settings and its functions. Subclasses add `run_s` and `invoke`.

    Args:
        settings: the platform's settings.
        functions: creates, deletes and lists functions; None if clients need no function of their own.
    """

    def __init__(self, settings: SettingsT, functions: FunctionsT) -> None:
        self.settings = settings
        self.functions = functions

    @property
    def name(self) -> str:
        """Implements `Platform.name`."""
        return self.settings.name

    @property
    def concurrency(self) -> int:
        """Implements `Platform.concurrency`."""
        return self.settings.concurrency

    @property
    def per_minute(self) -> int:
        """Implements `ManagedPlatform.per_minute`."""
        return 0

    @property
    def start_s(self) -> float:
        """Implements `ManagedPlatform.start_s`."""
        return self.settings.start_s

    async def check(self, check: DataCheck) -> DataReport:
        """Implements `ManagedPlatform.check` for functions: the bridge reaches nothing of what they reach.

        Raises:
            PlatformFailed: always.
        """
        reason = (
            "only the client's function reaches it. A job with training.dry = true reads it without training, and its "
            "client.failed events say what is wrong"
        )
        raise PlatformFailed(self.name, f"look at the data of {check.client}", reason)

    @property
    def condition(self) -> Condition:
        """Implements `ManagedPlatform.condition`."""
        return Condition()

    async def serve(self) -> None:
        """Implements `ManagedPlatform.serve`: there is no background work."""


class PlatformModule(Protocol):
    """The module of a platform.

    Attributes:
        Settings: the platform's settings, read from the bridge's file.
    """

    Settings: type[PlatformSettings]

    def opened(
        self, settings: Any, secrets: SecretStore, broker: Broker
    ) -> AbstractAsyncContextManager[ManagedPlatform]:
        """Open the platform until the end of the block. It may be out of reach at the start.

        Args:
            settings: an instance of `Settings`.
            secrets: holds the secrets that the settings and the functions name.
            broker: the bridge's connection.

        Raises:
            BadSettings: a setting is invalid.
            SecretMissing: this bridge lacks a secret that the settings name.
            PlatformDenied: the platform refuses the credentials.
            PlatformFailed: no task could run there.
        """
