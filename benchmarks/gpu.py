"""All checks that need a GPU, in one command of a few minutes: run it where one can be had.

1. The device is tried, as each worker does.
2. `benchmarks.together` with 1, 10 and 100 clients of the `nn` and the `cnn`, without and with a CUDA graph, with TF32
   off, and the memory in use. Its table says whether the graph gave what the steps themselves give.
3. A job from its start to its end with `fedkeeper run --device`, whose clients are trained together; the quickstart's,
   because it brings its data.

    python -m benchmarks.gpu [--device cuda] [--rows FILE] [--small]
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks import together
from benchmarks.together import Plan
from broker.support import logs

ONE_JOB_S: Final = 600.0
"""Most that the job from its start to its end may take. Seconds."""

WATCH_S: Final = 0.2


def card() -> str:
    """Return the GPU's name, its driver and its memory as nvidia-smi tells them; empty without it."""
    return _smi("name,driver_version,memory.total")


def used_mb() -> int:
    """Return the memory in use on the first GPU, in MiB; 0 without nvidia-smi."""
    text = _smi("memory.used").split()
    return int(text[0]) if text else 0


def _smi(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""


async def train(plan: Plan, file: Path | None) -> int:
    """Measure clients one by one and together; return the most memory of the GPU that was in use, in MiB.

    Args:
        plan: what is measured.
        file: gets the rows; None: no file.
    """
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, await asyncio.to_thread(used_mb))
            await asyncio.sleep(WATCH_S)

    watching = asyncio.create_task(watch(), name="memory")
    try:
        await together.run(plan, file)
    finally:
        watching.cancel()
    return most


def one_job(device: str, rounds: int) -> str:
    """Run a job with the real program; return what it says at the end and how long all took.

    Args:
        device: torch's name of the device.
        rounds: number of rounds.

    Raises:
        SystemExit: the program fails.
    """
    command = [str(Path(sys.executable).with_name("fedkeeper")), "run", "quickstart", "--device", device]
    # On a CPU clients are trained one by one unless that is asked for.
    environment = {**os.environ, "FEDKEEPER_TOGETHER": "auto"}
    begin_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(  # noqa: S603
            [*command, "--set", f"stop.rounds={rounds}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=ONE_JOB_S,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"fedkeeper run ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    lines = [line for line in (done.stderr + done.stdout).splitlines() if "round" in line or "trained on" in line]
    return "\n".join([*lines, f"in all {time.perf_counter() - begin_s:.1f} s"])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=Path, help="a file that gets each row as JSON")
    parser.add_argument("--small", action="store_true", help="few samples, clients and rounds: shows that it works")
    options = parser.parse_args()
    logs.configure(quiet=True)
    # NVIDIA's libraries then compute no product in TF32, which has 10 bits; the trainer gets all variables NVIDIA_*.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    plan = Plan(clients=(1, 10, 100), device=options.device)
    plan = plan._replace(clients=(3,), models=("nn",)).small() if options.small else plan
    print(card() or "no nvidia-smi: the card is not known")
    most = asyncio.run(train(plan, options.rows))
    print(f"memory of the GPU in use, with all programs: at most {most} MiB" if most else "no memory of a GPU was seen")
    print(one_job(options.device, 2 if options.small else 10))


if __name__ == "__main__":
    main()
