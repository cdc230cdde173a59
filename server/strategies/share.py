"""How an update enters a round's sum."""

from typing import NamedTuple


class Share(NamedTuple):
    """How an update enters the sum.

    Attributes:
        weight: its weight, an integer.
        scale: what the strategy multiplies the change of each weight of the model by before that.
        norm: L2 norm of the change of all weights after that, before the guard.
        clip: what the guard multiplies it by, at most 1.
        auxiliary_norm: L2 norm of the auxiliary tensors, before the guard.
        auxiliary_clip: what the guard multiplies them by.
    """

    weight: int
    scale: float = 1.0
    norm: float = 0.0
    clip: float = 1.0
    auxiliary_norm: float = 0.0
    auxiliary_clip: float = 1.0

    @property
    def factor(self) -> float:
        """What the change of each weight is multiplied by before it is added."""
        return self.scale * self.clip
