"""A round as a state machine. Everything that decides when a round is over lives here, and does no I/O.

A round is over when all invited clients answered or are lost, at the quorum once the grace has passed, or at the
deadline if there is a quorum then; else it fails.
"""

import enum
from dataclasses import dataclass, replace
from typing import Final

from server.errors import IllegalTransition


class State(enum.StrEnum):
    """Where a round stands."""

    COLLECTING = "collecting"  # below quorum
    GRACE = "in grace"  # quorum reached, waiting for the others
    CLOSED = "closed"  # the updates that count are known
    FAILED = "failed"
    CANCELLED = "cancelled"


class Happening(enum.StrEnum):
    """What can happen to a round."""

    ANSWER = "an answer"
    QUORUM = "the answer that makes the quorum"
    LAST = "the last outstanding answer or loss, with a quorum"
    LOSS = "the loss of a client"
    HOPELESS = "a loss that puts the quorum out of reach"
    GRACE_OVER = "the end of the grace"
    DEADLINE = "the deadline"
    CANCEL = "a cancellation"


_S, _H = State, Happening

TRANSITIONS: Final[dict[State, dict[Happening, State]]] = {
    _S.COLLECTING: {
        _H.ANSWER: _S.COLLECTING,
        _H.LOSS: _S.COLLECTING,
        _H.QUORUM: _S.GRACE,
        _H.LAST: _S.CLOSED,
        _H.HOPELESS: _S.FAILED,
        _H.DEADLINE: _S.FAILED,
        _H.CANCEL: _S.CANCELLED,
    },
    _S.GRACE: {
        _H.ANSWER: _S.GRACE,
        _H.LOSS: _S.GRACE,
        _H.LAST: _S.CLOSED,
        _H.GRACE_OVER: _S.CLOSED,
        _H.DEADLINE: _S.CLOSED,
        _H.CANCEL: _S.CANCELLED,
    },
    _S.CLOSED: {},
    _S.FAILED: {},
    _S.CANCELLED: {},
}


@dataclass(frozen=True, slots=True)
class Round:
    """A round as it stands; every step returns a new one.

    Attributes:
        cohort: who was invited.
        needed: how many counted updates make the quorum.
        grace_s: how long to wait for the others after the quorum.
        deadline_s: when it must be over; seconds, on the clock that the steps are told.
        state: where it stands.
        counted: whose update counts, in the order of the log.
        lost: who was given up.
        grace_until_s: when the grace is over; None before the quorum.
    """

    cohort: frozenset[str]
    needed: int
    grace_s: float
    deadline_s: float
    state: State = State.COLLECTING
    counted: tuple[str, ...] = ()
    lost: frozenset[str] = frozenset()
    grace_until_s: float | None = None

    @property
    def open(self) -> bool:
        """Whether anything can still happen."""
        return bool(TRANSITIONS[self.state])

    @property
    def wakes_s(self) -> float:
        """When to call `tick` at the latest."""
        return self.deadline_s if self.grace_until_s is None else min(self.grace_until_s, self.deadline_s)

    @property
    def missing(self) -> tuple[str, ...]:
        """Invited clients that are not counted."""
        return tuple(sorted(self.cohort.difference(self.counted)))


def answered(round_: Round, client: str, now_s: float) -> Round:
    """A valid update of an invited client that had none yet.

    Raises:
        IllegalTransition: the round is over.
    """
    after = replace(round_, counted=(*round_.counted, client), lost=round_.lost - {client})
    return _step(after, _answer_is(after), now_s)


def lost(round_: Round, client: str, now_s: float) -> Round:
    """A client was given up. If it is not invited or already counted, nothing changes.

    Raises:
        IllegalTransition: the round is over.
    """
    if client not in round_.cohort or client in round_.counted:
        return round_
    after = replace(round_, lost=round_.lost | {client})
    return _step(after, _loss_is(after), now_s)


def tick(round_: Round, now_s: float) -> Round:
    """Time has passed; early calls change nothing.

    Raises:
        IllegalTransition: the round is over.
    """
    if now_s >= round_.deadline_s:
        return _step(round_, Happening.DEADLINE, now_s)
    if round_.grace_until_s is not None and now_s >= round_.grace_until_s:
        return _step(round_, Happening.GRACE_OVER, now_s)
    return round_


def cancelled(round_: Round, now_s: float) -> Round:
    """Someone asked for the end.

    Raises:
        IllegalTransition: the round is over.
    """
    return _step(round_, Happening.CANCEL, now_s)


def _answer_is(after: Round) -> Happening:
    if _none_outstanding(after) and len(after.counted) >= after.needed:
        return Happening.LAST
    return Happening.QUORUM if len(after.counted) == after.needed else Happening.ANSWER


def _loss_is(after: Round) -> Happening:
    if len(after.cohort) - len(after.lost) < after.needed:
        return Happening.HOPELESS
    return Happening.LAST if _none_outstanding(after) else Happening.LOSS


def _none_outstanding(round_: Round) -> bool:
    return len(round_.counted) + len(round_.lost) == len(round_.cohort)


def _step(round_: Round, happening: Happening, now_s: float) -> Round:
    target = TRANSITIONS[round_.state].get(happening)
    if target is None:
        raise IllegalTransition(round_.state, happening)
    starts_grace = target is State.GRACE and round_.grace_until_s is None
    until = now_s + round_.grace_s if starts_grace else round_.grace_until_s
    return replace(round_, state=target, grace_until_s=until)
