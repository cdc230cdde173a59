"""What each client's next task names of its earlier rounds, in tables: a job's record names these."""

import msgspec

from broker.messages import codec
from broker.messages.round import BlobRef, PersonalRef


class ClientState(msgspec.Struct, frozen=True):
    """What a client's last counted update has left for its next task.

    Attributes:
        states: its states by name.
        own: its own tensors; None: it has none.
    """

    states: dict[str, BlobRef] = {}
    own: PersonalRef | None = None


class StateTable(msgspec.Struct, frozen=True):
    """The clients whose states a round has changed, or all of the job up to that round.

    Attributes:
        round: the round.
        clients: by client id.
        schema: schema number of the message.
    """

    round: int
    clients: dict[str, ClientState]
    schema: int = codec.SCHEMA
