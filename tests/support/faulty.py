"""A model whose client fails when a test says so: the test leaves files in the folder FAULTS, named by the client."""

import os
import signal
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
    # Each training is a process of its own.
    begun = faults / f"{client}.begun.{os.getpid()}"
    if not begun.exists():
        begun.touch()
        with (faults / f"{client}.trainings").open("a") as file:
            file.write(".")
    match _told(faults / client):
        case "end once":
            (faults / client).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            time.sleep(0.3)  # as when the kernel ends what took too much memory: not in its first moment
            os.kill(_function(), signal.SIGKILL)
        case "slow":
            time.sleep(0.1)


def _function() -> int:
    """Return the id of the function's process. Its child is the trainer, of which this process is a copy."""
    status = Path(f"/proc/{os.getppid()}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))


def _told(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
