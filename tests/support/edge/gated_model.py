"""A model that connects to a gate before each training. The gate counts trainings and decides when they begin."""

import os
import socket
from pathlib import Path
from typing import Final, Self

from torch import Tensor, nn

GATE: Final = "TRAINING_GATE"
"""Environment variable with the path of the gate's Unix socket. Paths are the same in all network namespaces."""

_WIDTH: Final = 100


class Gated(nn.Module):
    """Two layers over the digits' 64 pixels: 7,510 parameters, so an update is some twenty packets."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 10))

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's interface)
        if mode and GATE in os.environ:
            _pass(Path(os.environ[GATE]))
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def _pass(gate: Path) -> None:
    """Wait until the gate closes the connection."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(gate))
        line.recv(1)
