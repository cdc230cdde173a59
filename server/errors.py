"""Everything that the server package raises.

ServerError
├── IllegalTransition   a round was told something that can't happen in its state
├── Refused             an update that does not count, with a code and a reason
├── LearningFailed      the model can't be built or judged (its class, its data)
└── JobFailed           the job can't go on
"""


class ServerError(Exception):
    """Root of the package's errors."""


class IllegalTransition(ServerError):
    """Raised when a round is told something that can't happen in its state; nothing changed."""

    def __init__(self, state: object, happening: object) -> None:
        super().__init__(f"{happening} can't happen to a round that is {state}")
        self.state = state
        self.happening = happening


class Refused(ServerError):
    """Raised for an update that does not count."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class LearningFailed(ServerError):
    """Raised when the model can't be built or judged."""


class JobFailed(ServerError):
    """Raised when the job can't go on."""
