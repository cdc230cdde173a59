"""Schedules of the learning rate over a job's rounds.

In files and JSON, `name` says which one it is: `schedule = {name = "cosine", warmup = 2}`.
"""

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from broker.support.validation import AtLeastOne, NotNegative

Factor = Annotated[float, Meta(gt=0, le=1)]
Floor = Annotated[float, Meta(ge=0, le=1)]


class _Schedule(msgspec.Struct, frozen=True, kw_only=True, tag_field="name"):
    """Base of the schedules.

    Attributes:
        warmup: number of rounds at the beginning in which the rate grows evenly to its full value.
    """

    warmup: NotNegative = 0

    def factor(self, round_: int, rounds: int) -> float:
        """Return what the learning rate is multiplied with in a round.

        Args:
            round_: number of completed rounds before this one.
            rounds: number of rounds that the job has at most.
        """
        if round_ < self.warmup:
            return (round_ + 1) / (self.warmup + 1)
        return self._factor(round_ - self.warmup, max(1, rounds - self.warmup))

    def _factor(self, round_: int, rounds: int) -> float:  # noqa: ARG002 (of use in the others)
        return 1.0


class Constant(_Schedule, frozen=True, tag="constant"):
    """The same rate in all rounds."""


class Step(_Schedule, frozen=True, tag="step"):
    """The rate is multiplied with `gamma` after every `every` rounds.

    Attributes:
        every: number of rounds.
        gamma: the factor, above 0 and up to 1.
    """

    every: AtLeastOne = 10
    gamma: Factor = 0.1

    def _factor(self, round_: int, rounds: int) -> float:  # noqa: ARG002
        return float(self.gamma ** (round_ // self.every))


class Exponential(_Schedule, frozen=True, tag="exponential"):
    """The rate is multiplied with `gamma` after each round.

    Attributes:
        gamma: the factor, above 0 and up to 1.
    """

    gamma: Factor = 0.95

    def _factor(self, round_: int, rounds: int) -> float:  # noqa: ARG002
        return float(self.gamma**round_)


class Cosine(_Schedule, frozen=True, tag="cosine"):
    """Half a cosine from the full rate to `floor` of it (Loshchilov and Hutter 2017, arXiv 1608.03983).

    Attributes:
        floor: share of the rate that is left at the end.
    """

    floor: Floor = 0.0

    def _factor(self, round_: int, rounds: int) -> float:
        # The last round still trains.
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(1.0, round_ / rounds))) / 2


class Linear(_Schedule, frozen=True, tag="linear"):
    """A straight line from the full rate to `floor` of it.

    Attributes:
        floor: share of the rate that is left at the end.
    """

    floor: Floor = 0.0

    def _factor(self, round_: int, rounds: int) -> float:
        return self.floor + (1 - self.floor) * (1 - min(1.0, round_ / rounds))


Schedule = Constant | Step | Exponential | Cosine | Linear
