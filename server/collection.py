"""What an open round has collected so far."""

from dataclasses import dataclass, field

from broker.messages.update import UpdateHeader
from server.aggregator import Aggregate
from server.judging import Judging
from server.rounds import Round
from server.spool import Spool
from server.strategies.share import Share


@dataclass
class Collection:
    """What a round has collected.

    Times are on the clock of the round's collector.

    Attributes:
        round: the round's state.
        aggregate: the sum of the counted updates.
        spool: the counted updates themselves; None: the strategy needs only the sum.
        headers: the metadata of the counted updates, by client id.
        shares: how each of them entered the sum, by client id.
        judging: what clients say of the round's model: those that train, and those that only judge.
        training: ids of the clients that have begun to train.
        failures: why clients were given up, by client id.
        hopeless: ids of those of them that would fail again in the next round.
        sequence: position of the last counted update in the log.
        bytes_in: size of the counted updates.
        training_s: when the first client began to train, in seconds; None: no bridge has reported it.
        last_s: when the last counted update arrived, in seconds.
        opened_s: when the cohort was chosen, in seconds.
        invited_s: when the broker had every task, in seconds.
    """

    round: Round
    aggregate: Aggregate
    headers: dict[str, UpdateHeader] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    spool: Spool | None = None
    judging: Judging = field(default_factory=Judging)
    training: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    hopeless: set[str] = field(default_factory=set)
    sequence: int = 0
    bytes_in: int = 0
    training_s: float | None = None
    last_s: float = 0.0
    opened_s: float = 0.0
    invited_s: float = 0.0

    @property
    def attempts(self) -> dict[str, int]:
        """The attempts whose updates count, by client id, also of the clients that only judge."""
        return {client: header.attempt for client, header in self.judging.headers.items()}
