"""A client's data as the trainer is given it: a format, and a file or bytes in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from client_fn.errors import TrainingFailed
from client_fn.training import tensors

Samples = tuple[Tensor, Tensor] | dict[str, Tensor]
"""`(x, y)`, or all tensors by name. Their first side is the number of samples."""


@dataclass(frozen=True)
class Source:
    """A client's data. A learner's `data(source)` makes samples of it.

    Attributes:
        format: `safetensors`.
        content: the file, if it lies in memory.
        options: the format's own settings.
    """

    format: str = "safetensors"
    content: bytes = b""
    options: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return the data's tensors by name.

        Raises:
            TrainingFailed: the data can't be read as tensors.
        """
        if self.format != "safetensors":
            raise TrainingFailed(f"format {self.format!r} is not known to this version")
        return tensors.from_bytes(self.content)

    def samples(self) -> Samples:
        """Return the samples: `(x, y)` if these are all tensors, and otherwise all tensors by name.

        Raises:
            TrainingFailed: the data can't be read as tensors.
        """
        named = self.tensors()
        return (named["x"], named["y"]) if named.keys() == {"x", "y"} else named
