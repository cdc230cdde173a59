"""Chooses which clients take part in a round. It does no I/O; what it knows of clients is a fold over the log."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from broker.messages.job import Job
from broker.messages.progress import Event, RoundCompleted, RoundFailed
from broker.messages.register import ClientRecord
from broker.messages.round import seed


@dataclass(frozen=True, slots=True)
class ClientHistory:
    """What the log tells of a client.

    Attributes:
        counted: the rounds in which an update of it was counted, also if the round failed.
        missed: the rounds to which it was invited without a counted update.
    """

    counted: tuple[int, ...] = ()
    missed: tuple[int, ...] = ()


History = Mapping[str, ClientHistory]
"""By client id; a client that was never invited is not in it."""


class Selection(Protocol):
    """How a cohort is chosen. Deterministic: two servers choose the same clients.

    A selection is made for one job, whose cohort's size and seed it knows.

    Attributes:
        needs_history: whether a server that takes a job over must read the history from the log.
    """

    needs_history: ClassVar[bool]

    def choose(self, history: History, candidates: Sequence[ClientRecord], round_: int) -> list[ClientRecord]:
        """Return the clients to invite, sorted by id; fewer if there are fewer candidates.

        Args:
            history: what happened in the rounds before.
            candidates: sorted by id.
            round_: the round's number, from 1.
        """


@dataclass(frozen=True, slots=True)
class Uniform:
    """Draws without replacement; each candidate is as likely as any other (paper, section 2.1).

    Attributes:
        size: number of clients to invite.
        seed: of the job's draws.
    """

    needs_history: ClassVar[bool] = False

    size: int
    seed: int

    def choose(self, history: History, candidates: Sequence[ClientRecord], round_: int) -> list[ClientRecord]:  # noqa: ARG002 (needs none)
        """Implements `Selection.choose`."""
        draw = random.Random(seed(self.seed, "cohort", round_))  # noqa: S311 (a draw, not a secret)
        sample = draw.sample(list(candidates), min(self.size, len(candidates)))
        return sorted(sample, key=lambda client: client.id)


class NumpyStream:
    """Draws as programs do that call `numpy.random.seed` once, and `numpy.random.choice` in every round.

    They call `choice(n, size, replace=False)`, n being the number of candidates. NumPy never changes what this
    generator gives (NEP 19). A round's cohort follows from the seed, the candidates and the round's number alone; the
    generator is kept so that not every round repeats the draws of those before.

    Args:
        size: number of clients to invite.
        seed: of the job's draws, below 2^32.
    """

    needs_history: ClassVar[bool] = False

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._stream = np.random.RandomState(seed)
        self._drawn = 0
        self._from = 0

    def choose(self, history: History, candidates: Sequence[ClientRecord], round_: int) -> list[ClientRecord]:  # noqa: ARG002 (needs none)
        """Implements `Selection.choose`."""
        if self._from != len(candidates) or self._drawn >= round_:
            self._stream, self._drawn, self._from = np.random.RandomState(self._seed), 0, len(candidates)
        drawn: list[int] = []
        while self._drawn < round_:
            # This is what `choice` without replacement and without probabilities does.
            drawn = self._stream.permutation(len(candidates))[: self._size].tolist()
            self._drawn += 1
        return [candidates[index] for index in sorted(drawn)]


def create(job: Job) -> Selection:
    """Create the job's selection."""
    kind = NumpyStream if job.cohort.draw == "numpy" else Uniform
    return kind(job.cohort.invited, job.draw_seed)


def fold(history: History, event: Event) -> History:
    """Return the history after an event of the job's log. Only the ends of rounds change it.

    Args:
        history: before the event.
        event: the next event of the log.
    """
    match event:
        case RoundCompleted(round=round_, counted=counted, missing=missed):
            return _noted(history, round_, counted, missed)
        case RoundFailed(round=round_, counted=counted, missing=missed):
            return _noted(history, round_, counted, missed)
        case _:
            return history


def _noted(history: History, round_: int, counted: Iterable[str], missed: Iterable[str]) -> History:
    after = dict(history)
    for client in counted:
        before = after.get(client, ClientHistory())
        if round_ not in before.counted:  # the log may hold an event twice
            after[client] = replace(before, counted=(*before.counted, round_))
    for client in missed:
        before = after.get(client, ClientHistory())
        if round_ not in before.missed:
            after[client] = replace(before, missed=(*before.missed, round_))
    return after
