"""Everything that the bridges package raises.

BridgeError
└── InvocationFailed    the platform or the function did not bring the task to its end
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
