"""Memory of a job with a large model: `fedkeeper run` with two clients, one round, one worker.

    python -m benchmarks.large_model [--mb 2048]

The model is a user's: one parameter in blocks of 64 MiB, of which each step uses all. The numbers are each program's
peak memory (VmHWM), by its role, and the size of the model.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Final

from benchmarks import processes

BLOCK_MB: Final = 64
WATCH_S: Final = 0.2

CODE: Final = """
import torch
from torch import nn


class Large(nn.Module):
    def __init__(self, blocks: int):
        super().__init__()
        sizes = [(4096, 4096)] * blocks
        self.blocks = nn.ParameterList(nn.Parameter(torch.full(size, 0.01)) for size in sizes)
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        sums = sum(block.sum() for block in self.blocks)
        return self.out(x.flatten(1)) + 1e-9 * sums
"""

JOB: Final = """
name = "large"
model = {{type = "large:Large", args = {{blocks = {blocks}}}}}
training = {{optimizer = "sgd", batch_size = 1000, local_epochs = 1}}
data = {{clients = 2}}
cohort = {{clients = 2, deadline_s = 3600}}
evaluation = {{every = 0}}
stop = {{rounds = 1}}
"""


def main() -> None:
    """Run the job and print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=2048, help="size of the model in MiB")
    blocks = parser.parse_args().mb // BLOCK_MB
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "large.py").write_text(CODE)
        (Path(folder) / "job.toml").write_text(JOB.format(blocks=blocks))
        begin_s = time.monotonic()
        command = [sys.executable, "-m", "fedkeeper", "run", "job.toml", "--workers", "1"]
        process = subprocess.Popen(command, cwd=folder)  # noqa: S603 (our own program)
        peaks = _watch(process)
    print(f"{blocks * BLOCK_MB} MiB, exit {process.returncode}, {time.monotonic() - begin_s:.0f} s")
    for role, peak_mb in sorted(peaks.items()):
        print(f"  {role:<40} {peak_mb:8.0f} MB")
    sys.exit(process.returncode)


def _watch(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Return the peak memory of a program and its descendants, in MB, by the beginning of the command."""
    peaks: dict[str, float] = defaultdict(float)
    while process.poll() is None:
        for pid in processes.descendants(process.pid):
            with contextlib.suppress(OSError):
                role = _role(pid)
                peaks[role] = max(peaks[role], processes.memory_mb(pid, "VmHWM"))
        time.sleep(WATCH_S)
    return dict(peaks)


def _role(pid: int) -> str:
    return " ".join(Path(word).name for word in processes.command(pid) if not word.startswith("-"))[:40]


if __name__ == "__main__":
    main()
