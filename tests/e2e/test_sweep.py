"""`fedkeeper sweep`: a grid over the quickstart, stopped and resumed, as a person sees it."""

import json
import signal
from pathlib import Path

import pytest

from tests.support.fakes import soon
from tests.support.program import ALL_COUNT, Program, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

QUICK = (*ALL_COUNT, "--set", "training.local_epochs=1")
GRID = ("--grid", "stop.rounds=1,8", "--grid", "training.learning_rate=0.1,0.01")
"""The later jobs are so long that they do not all end before the signal."""


async def test_a_stopped_sweep_goes_on_and_ends_with_a_comparison(tmp_path: Path) -> None:
    program = await Program(
        "sweep", "quickstart", *QUICK, *GRID, "--at-once", "1", "--workers", "1", cwd=tmp_path
    ).start()
    line = await program.wait_for_line("runs: ")
    assert line.startswith("4 runs: 2 rounds x 2 learning_rate, 1 at once, into runs/")
    await program.wait_for_line("[1/4] rounds 1, learning_rate 0.1: accuracy 0.")
    program.send(signal.SIGINT)
    assert await program.wait() == 130, program.output
    await soon(lambda: not program.processes())
    folder = _latest(tmp_path)
    assert f"fedkeeper sweep --resume runs/{folder.name}" in program.output
    assert "Traceback" not in program.output
    first = _file(folder, "-1", "metrics.jsonl")

    code, output = await run("sweep", "--resume", "runs/latest", "--json", cwd=tmp_path)
    assert code == 0, output
    assert "[1/4]" not in output, "it is not run again"
    assert "[4/4] rounds 8, learning_rate 0.01: accuracy 0." in output
    result = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    assert (result["folder"], result["completed"], result["failed"]) == (f"runs/{folder.name}", 4, 0)
    best, *_, worst = (each["last"]["mean"] for each in result["comparison"]["combinations"])
    assert best > worst
    assert _file(folder, "-1", "metrics.jsonl") == first
    assert _file(folder, "-4", "model.safetensors")
    assert _file(folder, "", "accuracy.png").startswith(b"\x89PNG")
    assert not _stores(tmp_path)


def _latest(folder: Path) -> Path:
    return (folder / "runs" / "latest").resolve()


def _file(sweep: Path, ending: str, name: str) -> bytes:
    (path,) = sweep.glob(f"*{ending}/{name}" if ending else name)
    return path.read_bytes()


def _stores(folder: Path) -> list[Path]:
    return list((folder / ".fedkeeper").glob("sweep-*"))
