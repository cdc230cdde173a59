"""A round as a state machine: this module alone decides when a round is over. It does no I/O and reads no clock.

A round closes when no client is outstanding and the quorum is reached, when the grace period after the quorum ends,
or at the deadline if the quorum is reached. It fails at the deadline without a quorum, or when the lost clients put the
quorum out of reach. Clients that only judge the round's model are waited for like the others, and the quorum does not
need them.
"""

import enum
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from server.client_set import ClientSet
from server.errors import IllegalTransition


class State(enum.StrEnum):
    """The state of a round."""

    COLLECTING = "collecting"  # below quorum
    GRACE = "in grace"  # quorum reached, waiting for the other clients
    CLOSED = "closed"  # the updates that count are known
    FAILED = "failed"
    CANCELLED = "cancelled"


class RoundEvent(enum.StrEnum):
    """An event that can change a round's state."""

    ANSWER = "an answer"
    QUORUM = "the answer that makes the quorum"
    LAST = "the last outstanding answer or loss, with a quorum"
    LOSS = "the loss of a client"
    HOPELESS = "a loss that puts the quorum out of reach"
    GRACE_OVER = "the end of the grace"
    DEADLINE = "the deadline"
    CANCEL = "a cancellation"


_S, _E = State, RoundEvent

TRANSITIONS: Final[dict[State, dict[RoundEvent, State]]] = {
    _S.COLLECTING: {
        _E.ANSWER: _S.COLLECTING,
        _E.LOSS: _S.COLLECTING,
        _E.QUORUM: _S.GRACE,
        _E.LAST: _S.CLOSED,
        _E.HOPELESS: _S.FAILED,
        _E.DEADLINE: _S.FAILED,
        _E.CANCEL: _S.CANCELLED,
    },
    _S.GRACE: {
        _E.ANSWER: _S.GRACE,
        _E.LOSS: _S.GRACE,
        _E.LAST: _S.CLOSED,
        _E.GRACE_OVER: _S.CLOSED,
        _E.DEADLINE: _S.CLOSED,
        _E.CANCEL: _S.CANCELLED,
    },
    _S.CLOSED: {},
    _S.FAILED: {},
    _S.CANCELLED: {},
}


@dataclass(frozen=True, slots=True)
class Round:
    """A round; every step returns a new one. `opened` and `to_judge` make one.

    Attributes:
        cohort: the clients that are to train.
        evaluators: the clients that only judge.
        needed: number of counted updates that makes the quorum.
        judged_needed: number of judgements that starts the grace, in a round in which nobody trains.
        grace_s: seconds to wait for the other clients after the quorum.
        deadline_s: latest end, in seconds on the clock of the `now_s` arguments.
        answered: the clients whose update or judgement counts.
        lost: the clients that the round no longer waits for.
        state: the state.
        grace_until_s: end of the grace period, on the same clock; None before the quorum.
        ended_by: the event that ended the round; None: it is open.
    """

    cohort: ClientSet
    evaluators: ClientSet
    needed: int
    judged_needed: int
    grace_s: float
    deadline_s: float
    answered: ClientSet
    lost: ClientSet
    state: State = State.COLLECTING
    grace_until_s: float | None = None
    ended_by: RoundEvent | None = None

    @property
    def is_open(self) -> bool:
        """Whether any event is still possible."""
        return bool(TRANSITIONS[self.state])

    @property
    def next_tick_s(self) -> float:
        """Latest time for the next call of `tick`."""
        return self.deadline_s if self.grace_until_s is None else min(self.grace_until_s, self.deadline_s)

    @property
    def counted(self) -> ClientSet:
        """The clients whose update counts."""
        return self.answered & self.cohort

    @property
    def judged(self) -> ClientSet:
        """The clients that only judge, and have answered."""
        return self.answered & self.evaluators

    @property
    def outstanding(self) -> ClientSet:
        """The clients that the round waits for."""
        return (self.cohort | self.evaluators) - (self.answered | self.lost)

    def can_do_without(self, client: str) -> bool:
        """Whether the quorum stays in reach if a client that is outstanding is lost."""
        return client in self.evaluators or len(self.cohort - self.lost) > self.needed


def opened(
    trainers: Collection[str], evaluators: Collection[str], *, needed: int, grace_s: float, deadline_s: float
) -> Round:
    """Return a round that has just been opened.

    Args:
        trainers: ids of the clients that are to train.
        evaluators: ids of the clients that only judge.
        needed: number of counted updates that makes the quorum.
        grace_s: seconds to wait for the others after the quorum.
        deadline_s: latest end, in seconds.
    """
    everyone = ClientSet.of([*trainers, *evaluators])
    cohort, nobody = everyone.first(len(trainers)), everyone.first(0)
    return Round(cohort, everyone - cohort, needed, 0, grace_s, deadline_s, answered=nobody, lost=nobody)


def to_judge(evaluators: Collection[str], *, needed: int, grace_s: float, deadline_s: float) -> Round:
    """Return a round in which no client trains. It can't fail: at its deadline it closes with what there is.

    Args:
        evaluators: ids of the clients that judge.
        needed: number of answers after which the others have the grace.
        grace_s: seconds to wait for the others.
        deadline_s: latest end, in seconds.
    """
    # The quorum of nobody is reached at once.
    round_ = opened((), evaluators, needed=0, grace_s=grace_s, deadline_s=deadline_s)
    return replace(round_, judged_needed=needed, state=State.GRACE, grace_until_s=deadline_s)


def add_answer(round_: Round, client: str, now_s: float) -> Round:
    """Count a client's valid answer: its update, or its judgement. A client that was lost is lost no longer.

    Args:
        round_: the round.
        client: id of an invited client that is not counted yet.
        now_s: current time in seconds.

    Raises:
        IllegalTransition: the round is over.
    """
    answered = round_.answered.having(client)
    after = replace(round_, answered=answered, lost=round_.lost - answered)
    counted = len(after.counted)
    if client in round_.evaluators and len(after.judged) == after.judged_needed:
        after = replace(after, grace_until_s=now_s + after.grace_s)
    if not after.outstanding and counted >= after.needed:
        return _step(after, RoundEvent.LAST, now_s)
    makes_quorum = client in round_.cohort and counted == after.needed
    return _step(after, RoundEvent.QUORUM if makes_quorum else RoundEvent.ANSWER, now_s)


def add_loss(round_: Round, client: str, now_s: float) -> Round:
    """Stop waiting for a client. The round is unchanged if the client is not invited or is already counted.

    Args:
        round_: the round.
        client: the client's id.
        now_s: current time in seconds.

    Raises:
        IllegalTransition: the round is over.
    """
    if client not in round_.outstanding | round_.lost:
        return round_
    after = replace(round_, lost=round_.lost.having(client))
    if len(after.cohort - after.lost) < after.needed:
        return _step(after, RoundEvent.HOPELESS, now_s)
    return _step(after, RoundEvent.LOSS if after.outstanding else RoundEvent.LAST, now_s)


def tick(round_: Round, now_s: float) -> Round:
    """Apply the passage of time. Early calls change nothing.

    Args:
        round_: the round.
        now_s: current time in seconds.

    Raises:
        IllegalTransition: the round is over.
    """
    if now_s >= round_.deadline_s:
        return _step(round_, RoundEvent.DEADLINE, now_s)
    if round_.grace_until_s is not None and now_s >= round_.grace_until_s:
        return _step(round_, RoundEvent.GRACE_OVER, now_s)
    return round_


def cancel(round_: Round, now_s: float) -> Round:
    """Cancel the round.

    Args:
        round_: the round.
        now_s: current time in seconds.

    Raises:
        IllegalTransition: the round is over.
    """
    return _step(round_, RoundEvent.CANCEL, now_s)


def _step(round_: Round, event: RoundEvent, now_s: float) -> Round:
    target = TRANSITIONS[round_.state].get(event)
    if target is None:
        raise IllegalTransition(round_.state, event)
    starts_grace = target is State.GRACE and round_.grace_until_s is None
    grace_until_s = now_s + round_.grace_s if starts_grace else round_.grace_until_s
    ended_by = None if TRANSITIONS[target] else event
    return replace(round_, state=target, grace_until_s=grace_until_s, ended_by=ended_by)
