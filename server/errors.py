"""Every error that the server package raises.

ServerError
├── IllegalTransition   an event is impossible in the round's state
├── Refused             an update does not count; has a code and a reason
├── LearningFailed      the model can't be built or evaluated (its class, its data)
├── LearningDied        what builds or evaluates the model ended; a second try may help
├── JobCancelled        the job was cancelled while the server waited for something else
├── NoRoomForUpdates    the server's disk is full; the job is paused
└── JobCannotContinue   the job can't continue
"""


class ServerError(Exception):
    """Root of the package's errors."""


class IllegalTransition(ServerError):
    """Raised when an event is impossible in a round's state; the round is unchanged.

    Attributes:
        state: the round's state.
        event: the event.
    """

    def __init__(self, state: object, event: object) -> None:
        super().__init__(f"{event} can't happen to a round that is {state}")
        self.state = state
        self.event = event


class Refused(ServerError):
    """Raised when an update does not count.

    Attributes:
        code: one of `server.gate.CODES`.
        reason: the explanation for a person.
        is_answer: whether the update is a client's answer to its task, because it has the task's token. Then no other
            one follows. Anybody can write an update without it.
    """

    def __init__(self, code: str, reason: str, *, is_answer: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.is_answer = is_answer


class LearningFailed(ServerError):
    """Raised when the model can't be built or evaluated."""


class LearningDied(ServerError):
    """Raised when what builds or evaluates the model ended before it was done, such as by a signal."""


class JobCancelled(ServerError):
    """Raised when a person cancels the job while the server waits for a model to be built or evaluated."""


class JobCannotContinue(ServerError):
    """Raised when the job can't continue."""


class NoRoomForUpdates(ServerError):
    """Raised when the server's own disk has no room for a round's updates.

    Attributes:
        folder: where they are kept.
        reason: what the operating system says.
    """

    def __init__(self, folder: str, reason: str) -> None:
        super().__init__(f"{folder} has no room for a round's updates: {reason}")
        self.folder = folder
        self.reason = reason
