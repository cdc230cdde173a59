"""Robust rules: what one client sends can't move a weight further than others do. They see all updates at once.

All of them work on fixed-point integers, so their results do not depend on the order of updates or of blocks. The
updates count equally.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

from broker.messages.job import Job
from broker.messages.strategy import Krum as KrumSettings
from broker.messages.strategy import TrimmedMean as TrimmedMeanSettings
from broker.messages.strategy import rule_of
from broker.messages.tensors import Array
from server.strategies.base import Reduction
from server.strategies.rules import Rule
from server.strategies.share import Share

_DISTANCE_BITS: Final = 25
"""Bits of the largest change's norm. A sum of products of two changes is at most the product of their norms, so it
stays below 2^53, up to which float64 adds integers exactly."""

_LEAST_NORM: Final = 2.0**-300
"""Where no change is larger, all distances are zero."""

_FAR: Final = 64.0
"""Changes of more than so many times the norm that n - faulty changes do not exceed are made smaller. Those are at most
2 such norms apart, and at least 63 from one that was made smaller: its score is larger even if others lie beside it."""


class Robust(Rule):
    """A rule whose reduction is one of those below."""

    needs_all = True

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._settings = rule_of(job.strategy)
        self.needs_norms = isinstance(self._settings, KrumSettings)

    def reduction(self, shares: Sequence[Share]) -> Reduction:
        """Implements `Rule.reduction`."""
        match self._settings:
            case TrimmedMeanSettings(share=share):
                return Trimmed(int(share * len(shares)))
            case KrumSettings(faulty=faulty, keep=keep):
                return Nearest([share.norm * share.clip for share in shares], faulty, keep)
            case _:
                return Middle()


class Middle:
    """The median of each element (Yin et al. 2018, arXiv 1803.01498)."""

    needs_look: ClassVar[bool] = False

    def look(self, changes: Array) -> None:
        """Implements `Reduction.look`."""

    def reduce(self, values: Array) -> Array:
        """Implements `Reduction.reduce`: the middle value, or the mean of the middle two."""
        count = len(values)
        middle = np.sort(values, axis=0)  # three times as quick as np.partition, which has no vector instructions here
        return np.asarray((middle[count // 2] + middle[(count - 1) // 2]) / 2)


class Trimmed:
    """The mean of each element without some of the largest and smallest values (ibid.).

    Args:
        left_out: number of values to leave out at each end.
    """

    needs_look: ClassVar[bool] = False

    def __init__(self, left_out: int) -> None:
        self._left_out = left_out

    def look(self, changes: Array) -> None:
        """Implements `Reduction.look`."""

    def reduce(self, values: Array) -> Array:
        """Implements `Reduction.reduce`."""
        first, end = self._left_out, len(values) - self._left_out
        ordered = np.sort(values, axis=0)[first:end]
        return _mean(ordered)


class Nearest:
    """The mean of the updates that are nearest to their neighbours (Blanchard et al. 2017, arXiv 1703.02757).

    Of equally near ones the first in the order of ids. All values are rounded to integers so small that the sums of
    their products are exact: the same updates are kept for any order and size of blocks. Changes that are much larger
    than the others are made smaller before that, for their distances alone.

    Args:
        norms: upper bounds of the norms of the updates' changes.
        faulty: number of updates that may be anything.
        keep: number of updates to keep.
    """

    needs_look: ClassVar[bool] = True

    def __init__(self, norms: Sequence[float], faulty: int, keep: int) -> None:
        self._faulty = faulty
        self._keep = keep
        # No larger than the largest honest norm: one faulty update must not make the unit so coarse that all others are
        # alike.
        typical = sorted(norms)[max(0, len(norms) - faulty - 1)]
        limit = max(_LEAST_NORM, min(_FAR * typical or math.inf, max(norms)))
        self._scale = math.ldexp(1.0, _DISTANCE_BITS - math.frexp(limit)[1])
        self._factors = np.array([self._scale * min(1.0, limit / norm if norm else 1.0) for norm in norms])[:, None]
        self._products = np.zeros((len(norms), len(norms)))

    def look(self, changes: Array) -> None:
        """Implements `Reduction.look`."""
        whole = np.rint(changes * self._factors)
        self._products += whole @ whole.T

    def reduce(self, values: Array) -> Array:
        """Implements `Reduction.reduce`."""
        return _mean(values[self.kept()])

    def kept(self) -> list[int]:
        """Return the rows of the updates to keep, the nearest first."""
        scores = self.scores()
        return sorted(range(len(scores)), key=lambda row: (scores[row], row))[: self._keep]

    def scores(self) -> list[float]:
        """Return each update's sum of its smallest squared distances to others, in the units of the changes."""
        squares = np.diag(self._products)
        distances = squares[:, None] + squares[None, :] - 2 * self._products
        np.fill_diagonal(distances, np.inf)
        near = np.sort(distances, axis=1)[:, : max(1, len(squares) - self._faulty - 2)]
        return [float(score) for score in near.sum(axis=1) / self._scale**2]


def _mean(values: Array) -> Array:
    return np.asarray(values.sum(axis=0) / len(values))
