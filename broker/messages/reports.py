"""Parts of progress events: reports about a job's start, a round's time and an evaluation."""

import msgspec


class StartReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which tensors of an earlier model a job starts from.

    Attributes:
        source: as the job names it.
        matched: names of the tensors that were taken.
        reshaped: names of those that have another shape or dtype there, so they keep their initial values.
        missing: names of those that are not there.
        unused: names of the others that are there.
    """

    source: str
    matched: tuple[str, ...]
    reshaped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """The phases of a round's wall time (paper, Figure 5), in seconds. They add up to `round_s`.

    Attributes:
        invocation_s: from the round's opening until the broker has every task.
        clients_start_s: from then until the first client starts to train (start of the function, model, data).
        training_s: from then until the last counted update arrives.
        aggregation_s: from then until the new global model is committed.
        round_s: the whole round.
    """

    invocation_s: float
    clients_start_s: float
    training_s: float
    aggregation_s: float
    round_s: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How a metric differs among clients.

    Attributes:
        mean: weighted by the clients' held-out samples.
        median: half of the clients have at most this.
        worst_decile: mean of the worst tenth of the clients, of at least one.
    """

    mean: float
    median: float
    worst_decile: float
