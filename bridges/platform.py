"""What a bridge needs of a FaaS platform. A new platform's author writes what `opened` of `PlatformModule` yields."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from bridges.secrets import SecretStore
from bridges.settings import PlatformSettings
from broker.base import Broker
from broker.messages.function import Change, Deployed, Function
from broker.messages.round import RoundTask

SettingsT = TypeVar("SettingsT", bound=PlatformSettings)
FunctionsT = TypeVar("FunctionsT", bound="Functions | None")


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
    """What runs tasks: all that the runner needs.

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


class Functions(Protocol):
    """The functions of a platform: created, deleted and listed through its bridge."""

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


class ManagedPlatform(Platform, Protocol):
    """A platform as a bridge runs it: `BasePlatform` has all of this but `invoke` and `run_s`.

    Attributes:
        per_minute: how many invocations the platform takes in a minute; 0: it does not say.
        start_s: how long after `accepted` a function must have reported that it trains.
        run_s: how long after that it must be done.
        functions: what creates them; None where clients need no function of their own.
    """

    @property
    def per_minute(self) -> int: ...  # noqa: D102

    @property
    def start_s(self) -> float: ...  # noqa: D102

    @property
    def run_s(self) -> float: ...  # noqa: D102

    @property
    def functions(self) -> Functions | None: ...  # noqa: D102

    async def serve(self) -> None:
        """What else the bridge does for this platform: returns when there is nothing (more) to do, or is cancelled."""


class BasePlatform(Generic[SettingsT, FunctionsT]):
    """A platform made of its settings and its functions; subclasses add `run_s` and `invoke`. See `ManagedPlatform`.

    Args:
        settings: say what it is called and how much it may do at once.
        functions: creates, deletes and lists them; None where clients need no function of their own.
    """

    def __init__(self, settings: SettingsT, functions: FunctionsT) -> None:
        self.settings = settings
        self.functions = functions

    @property
    def name(self) -> str:
        """See `Platform`."""
        return self.settings.name

    @property
    def concurrency(self) -> int:
        """See `Platform`."""
        return self.settings.concurrency

    @property
    def per_minute(self) -> int:
        """See `ManagedPlatform`."""
        return 0

    @property
    def start_s(self) -> float:
        """See `ManagedPlatform`."""
        return self.settings.start_s

    async def serve(self) -> None:
        """Nothing else; see `ManagedPlatform`."""


class PlatformModule(Protocol):
    """What the module of a platform offers.

    Attributes:
        Settings: the platform's part of a bridge's file.
    """

    Settings: type[PlatformSettings]

    def opened(self, settings: Any, vault: SecretStore, broker: Broker) -> AbstractAsyncContextManager[ManagedPlatform]:
        """The platform, until the end of the block. One that is out of reach now is no error: it may come back.

        Args:
            settings: of the package's `Settings`.
            vault: holds the secrets that the settings and functions name.
            broker: where the bridge's events come from and go to.

        Raises:
            BadSettings: a setting can't be used.
            SecretMissing: a secret that the settings name is not here.
            PlatformDenied: the platform refuses the credentials.
        """
