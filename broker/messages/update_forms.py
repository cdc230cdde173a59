"""The forms of an update: what its float tensors are, and in how many bits they travel.

`client_fn/training/codecs.py` has the constants of `int8` again, because the trainer imports nothing of the broker: its
`test_codecs.py` compares them.
"""

from typing import Final, Literal

Form = Literal["delta", "weights"]
UpdateForm = Literal["delta", "weights", "bf16", "fp16", "int8"]

ROUNDED: Final = frozenset({"bf16", "fp16", "int8"})
"""Forms in which the change of each weight travels in fewer bits than the weight has."""

BLOCK: Final = 256
"""Values of a tensor, one after the other, that share a scale in `int8`. A tensor's last block may be shorter."""

SCALES: Final = "int8.scales"
"""Name of the tensor of an `int8` update with the blocks' scales, as exponents of two (I16): those of the first tensor
in the order of the names, then those of the next."""

NOT_FINITE: Final = 32767
"""The exponent of a block that held NaN or infinity."""

LEAST_EXPONENT: Final = -120
LARGEST_EXPONENT: Final = 1016
"""Limits of the other exponents: 127 * 2^1016 is a float64."""


def form_of(update: UpdateForm) -> Form:
    """Return what the tensors of an update are, however they are encoded."""
    return "weights" if update == "weights" else "delta"
