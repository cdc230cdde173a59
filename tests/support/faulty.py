"""A model whose client fails when a test says so: the test leaves files in the folder FAULTS, named by the client."""

import os
import time
from pathlib import Path

from torch import Tensor, nn


class Faulty(nn.Module):
    """One linear layer over the digits' 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and "FEDKEEPER_CLIENT" in os.environ:
            _misbehave(Path(os.environ["FAULTS"]), os.environ["FEDKEEPER_CLIENT"])
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def _misbehave(faults: Path, client: str) -> None:
    first = faults / f"{client}.begun.{os.getpid()}"
    if not first.exists():
        first.touch()
        with (faults / f"{client}.trainings").open("a") as file:
            file.write(".")
    match _told(faults / client):
        case "raise once":
            (faults / client).unlink()
            first.unlink()
            raise MemoryError("out of memory")
        case "crash":
            time.sleep(0.3)  # as when the kernel ends what took too much memory: not in its first moment
            os._exit(137)
        case "slow":
            time.sleep(0.1)


def _told(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
