"""The errors of the bridges package, and which of them another attempt may overcome.

BridgeError
├── InvocationFailed    the platform or the function did not complete the task
│   ├── NotStarted      the platform was out of reach or refused: nothing ran, and no attempt is used up
│   │   └── SiteFault   the site's settings let no task run: only its operator can change that
│   ├── NoReport        the platform accepted the task, but the function never reported
│   ├── FunctionGone    the platform does not know the function: it can be created again
│   └── OutcomeUnknown  the platform does not know how the run ended; it may go on
├── PlatformDenied      the platform refuses our credentials
├── PlatformFailed      the platform could not create, delete or list functions
│   └── PlatformAway    it was out of reach, or busy: the same call may work later
├── PlatformTaken       another machine serves a platform of that name, which can have only one
├── SecretMissing       this bridge does not have a secret of that name
├── BadSettings         a setting of a bridge is invalid: its field, its value, what is allowed
├── UnknownPlatform     no kind of platform has that name
├── LibraryMissing      a library that a platform needs is not installed
└── BadPlatform         a platform that another distribution adds is invalid
"""

from typing import Final


class BridgeError(Exception):
    """Root of the package's errors."""


class InvocationFailed(BridgeError):
    """Raised when the platform or the function did not complete the task.

    Attributes:
        reason: what happened.
        retryable: whether another attempt may succeed.
        activation: the platform's id of the run; empty if there is none.
    """

    def __init__(self, reason: str, *, retryable: bool = True, activation: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable
        self.activation = activation


class NotStarted(InvocationFailed):
    """Raised when nothing ran: the platform was out of reach, or had no room for the call.

    Attributes:
        if_begun: what the same answer of the platform means for a function that has reported that it trains; empty: the
            reason says it.
    """

    def __init__(self, reason: str, *, activation: str = "", if_begun: str = "") -> None:
        super().__init__(reason, activation=activation)
        self.if_begun = if_begun


class SiteFault(NotStarted):
    """Raised when nothing ran because of the settings of the site: its device, its Python, its code.

    No job may suffer from that more than from a site that is away: the task waits for its deadline.
    """


class NoReport(InvocationFailed):
    """Raised when the platform accepted a call, but the function never reported. It may not exist any more."""


class FunctionGone(InvocationFailed):
    """Raised when the platform does not know the function, or when a call would trigger no function."""


class OutcomeUnknown(InvocationFailed):
    """Raised when the platform does not know how a run ended: the call timed out, or the run's record is missing."""


class PlatformDenied(BridgeError):
    """Raised when the platform refuses our credentials.

    Attributes:
        platform: name of the platform.
        where: its address.
        remedy: what the operator should do.
    """

    def __init__(self, platform: str, where: str, remedy: str) -> None:
        super().__init__(f"{platform} at {where} refuses the credentials: {remedy}")
        self.platform = platform
        self.where = where
        self.remedy = remedy


class PlatformFailed(BridgeError):
    """Raised when the platform could not create, delete or list functions, or look at data.

    Attributes:
        platform: name of the platform.
        what: what it could not do.
        reason: why.
    """

    def __init__(self, platform: str, what: str, reason: str) -> None:
        super().__init__(f"{platform} could not {what}: {reason}")
        self.platform = platform
        self.what = what
        self.reason = reason


class PlatformAway(PlatformFailed):
    """Raised when the platform was out of reach, or too busy. The same call may work later."""


class PlatformTaken(BridgeError):
    """Raised when another machine serves the platform that this one was to serve. Each machine has a name of its own.

    Attributes:
        platform: the platform's name.
        host: host name of the other machine.
    """

    def __init__(self, platform: str, host: str, *, is_namesake: bool = False) -> None:
        other = f"another machine of the host name {host!r}" if is_namesake else f"the machine {host!r}"
        super().__init__(
            f"platform {platform!r} is served by {other} already: give this one another name "
            "(--platform, or install.sh --name)"
        )
        self.platform = platform
        self.host = host


class SecretMissing(BridgeError):
    """Raised when this bridge does not have a secret of that name.

    Attributes:
        name: name of the secret.
        remedy: where the operator should put it.
    """

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(f"no secret {name!r} here: {remedy}")
        self.name = name
        self.remedy = remedy


class BadSettings(BridgeError):
    """Raised when a setting of a bridge is invalid.

    Attributes:
        field: name of the setting.
        value: its value.
        reason: what is allowed.
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field} = {value!r}: {reason}")
        self.field = field
        self.value = value
        self.reason = reason


class UnknownPlatform(BridgeError):
    """Raised when no kind of platform has that name.

    Attributes:
        name: the unknown name.
        known: the names that exist.
    """

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown platform {name!r}: use one of {', '.join(known)}")
        self.name = name
        self.known = known


class LibraryMissing(BridgeError):
    """Raised when a library that a platform needs is not installed.

    Attributes:
        platform: name of the kind of platform.
        library: name of the missing module.
        remedy: how to install it.
    """

    def __init__(self, platform: str, library: str, remedy: str) -> None:
        super().__init__(f"the platform {platform!r} needs {library}, which is not installed: {remedy}")
        self.platform = platform
        self.library = library
        self.remedy = remedy


class BadPlatform(BridgeError):
    """Raised when a platform that another distribution adds is invalid.

    Attributes:
        platform: name of its entry point or kind.
        reason: what is wrong.
    """

    def __init__(self, platform: str, reason: str) -> None:
        super().__init__(f"the platform {platform!r} can't be used: {reason}")
        self.platform = platform
        self.reason = reason


RETRYABLE: Final[dict[type[BridgeError], bool]] = {
    PlatformDenied: False,
    PlatformFailed: True,
    PlatformAway: True,
    PlatformTaken: False,
    SecretMissing: False,
    BadSettings: False,
    UnknownPlatform: False,
    LibraryMissing: False,
    BadPlatform: False,
}
"""Whether another attempt at a task may succeed after this error. False: only a person can change what is wrong, and
not within the seconds between two attempts. An `InvocationFailed` says it itself."""


def as_failed_invocation(error: BridgeError, before: str = "") -> InvocationFailed:
    """Return the failure of the invocation that an error has ended, so that it costs one client and not the bridge.

    Args:
        error: the error.
        before: begins the reason: what led to the call that failed.
    """
    if isinstance(error, InvocationFailed):
        return InvocationFailed(f"{before}{error}", retryable=error.retryable, activation=error.activation)
    # A platform of another distribution may have subclasses of its own.
    known = next((RETRYABLE[kind] for kind in type(error).__mro__ if kind in RETRYABLE), True)
    return InvocationFailed(f"{before}{error}", retryable=known)
