"""Everything that the bridges package raises.

BridgeError
├── InvocationFailed    the platform or the function did not bring the task to its end
│   ├── NotStarted      the platform was out of reach or refused: nothing ran, so it counts as no attempt
│   ├── NoReport          the platform took it, and the function was never heard of
│   ├── FunctionGone    the platform does not know the function (any more): it can be created again
│   └── OutcomeUnknown       the platform can't tell what became of the run; it may go on
├── PlatformDenied      the platform refuses our credentials
├── PlatformFailed      a function could not be created, deleted or listed
│   └── PlatformAway    because the platform was out of reach, or busy: later it may be
├── SecretMissing       this bridge does not have the secret of that name
├── BadSettings         a bridge's configuration can't be used: one field, its value, what is allowed
├── UnknownPlatform     no kind of platform has that name
├── LibraryMissing      a platform's own library is not installed
└── BadPlatform         a platform that another distribution adds can't be used
"""


class BridgeError(Exception):
    """Root of the package's errors."""


class InvocationFailed(BridgeError):
    """Raised when the platform or the function did not bring the task to its end.

    Attributes:
        reason: what happened.
        retryable: whether another attempt may have another outcome.
        activation: the platform's id of the run, if it got one.
    """

    def __init__(self, reason: str, *, retryable: bool = True, activation: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable
        self.activation = activation


class NotStarted(InvocationFailed):
    """Raised when nothing ran: the platform was out of reach, or had no room for the call now."""


class NoReport(InvocationFailed):
    """Raised when the platform took a call, and nothing was heard of the function; it may not be there any more."""


class FunctionGone(InvocationFailed):
    """Raised when the platform does not know the function, or would trigger nothing."""


class OutcomeUnknown(InvocationFailed):
    """Raised when the platform can't tell what became of a run (it timed out, its record is missing)."""


class PlatformDenied(BridgeError):
    """Raised when the platform refuses our credentials."""

    def __init__(self, platform: str, where: str, remedy: str) -> None:
        super().__init__(f"{platform} at {where} refuses the credentials: {remedy}")
        self.platform = platform
        self.where = where
        self.remedy = remedy


class PlatformFailed(BridgeError):
    """Raised when a function could not be created, deleted or listed."""

    def __init__(self, platform: str, what: str, reason: str) -> None:
        super().__init__(f"{platform} could not {what}: {reason}")
        self.platform = platform
        self.what = what
        self.reason = reason


class PlatformAway(PlatformFailed):
    """Raised when the platform was out of reach, or too busy; the same call may work later."""


class SecretMissing(BridgeError):
    """Raised when this bridge does not have the secret of that name."""

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(f"no secret {name!r} here: {remedy}")
        self.name = name
        self.remedy = remedy


class BadSettings(BridgeError):
    """Raised for a bridge's configuration that can't be used."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field} = {value!r}: {reason}")
        self.field = field
        self.value = value
        self.reason = reason


class UnknownPlatform(BridgeError):
    """Raised when no kind of platform has that name; `known` are those that would do."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown platform {name!r}: use one of {', '.join(known)}")
        self.name = name
        self.known = known


class LibraryMissing(BridgeError):
    """Raised when a library that a platform needs is not installed."""

    def __init__(self, platform: str, library: str, remedy: str) -> None:
        super().__init__(f"the platform {platform!r} needs {library}, which is not installed: {remedy}")
        self.platform = platform
        self.library = library
        self.remedy = remedy


class BadPlatform(BridgeError):
    """Raised when a platform that another distribution adds can't be used."""

    def __init__(self, platform: str, reason: str) -> None:
        super().__init__(f"the platform {platform!r} can't be used: {reason}")
        self.platform = platform
        self.reason = reason
