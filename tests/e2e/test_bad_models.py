"""`fedkeeper run` and `up` with a user's model that does what it should not: one sentence, and everything ends."""

import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.support import bad_models
from tests.support.bad_models import Place
from tests.support.fakes import soon
from tests.support.program import Program, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

ENDS_WITHIN_S: Final = 30.0
"""Less than a model may be silent."""

SILENCE: Final = {"FEDKEEPER_TRAINER_SILENCE_S": "5"}
JOB: Final = """
name = "bad"
[model]
type = "{type}"
[training]
local_epochs = 1
[data]
dataset = "digits"
partition = "iid"
clients = 2
[cohort]
clients = 2
[stop]
rounds = 1
"""


def write_job(folder: Path, action: str, place: Place) -> str:
    """Write a job with a bad model, and its model beside it; return the job's file."""
    file = folder / f"{action}.toml"
    file.write_text(JOB.format(type=bad_models.write(folder, action, place)))
    return str(file)


async def test_a_run_fails_and_says_why(tmp_path: Path) -> None:
    file = write_job(tmp_path, "segfaults", "evaluation")
    async with started("run", file, "--workers", "1", cwd=tmp_path) as program:
        assert await program.wait() == 3
    assert "killed by signal SIGSEGV (11) during the evaluation of the model; tried 2 times" in program.output
    assert "Traceback" not in program.output


async def test_a_run_over_mqtt_fails_in_the_same_way(mosquitto_url: str, tmp_path: Path) -> None:
    file = write_job(tmp_path, "ends", "evaluation")
    async with started("run", file, "--workers", "1", "--url", mosquitto_url, cwd=tmp_path) as program:
        assert await program.wait() == 3
    assert "ended with code 3 during the evaluation of the model; it printed: bye" in program.output


async def test_a_signal_ends_a_run_whose_model_hangs(tmp_path: Path) -> None:
    async with started(
        "run", write_job(tmp_path, "hangs_on", "constructor"), "-v", "--workers", "1", cwd=tmp_path
    ) as program:
        await program.wait_for_line("job.accepted")
        await soon(lambda: bool(program.processes("client_fn/training")))
        await end(program, signal.SIGTERM)


async def test_up_can_be_stopped_while_a_model_hangs_and_goes_on_with_this_job_and_others_later(tmp_path: Path) -> None:
    bad, good = write_job(tmp_path, "hangs", "constructor"), write_job(tmp_path, "nothing", "forward")
    exits = write_job(tmp_path, "exits", "constructor")
    options = ("up", "--code", ".", "--workers", "1")
    async with started(*options, cwd=tmp_path) as first:
        await first.wait_for_line("ready: ")
        code, job = await run("submit", bad, cwd=tmp_path)
        assert code == 0, job
        await soon(lambda: bool(first.processes("client_fn/training")))
        await end(first, signal.SIGTERM)
    async with started(*options, cwd=tmp_path, **SILENCE) as second:
        await second.wait_for_line("ready: ")
        code, watched = await run("watch", job.strip(), cwd=tmp_path)
        assert (code, "Traceback" in watched) == (3, False)
        assert "the construction of the model took longer than 5 s (FEDKEEPER_TRAINER_SILENCE_S)" in watched
        code, output = await run("submit", exits, "--wait", cwd=tmp_path)
        assert (code, "Traceback" in output) == (3, False)
        assert "can't be constructed; model.args are those of Model(): SystemExit in bad_exits_at_" in output
        code, output = await run("submit", good, "--wait", cwd=tmp_path)
        assert code == 0, output
        await end(second, signal.SIGINT)
    assert "Traceback" not in first.output + second.output


@contextlib.asynccontextmanager
async def started(*arguments: str, cwd: Path, **environment: str) -> AsyncIterator[Program]:
    """Start a program; when it has ended, everything that it has started must end too."""
    program = await Program(*arguments, cwd=cwd, **environment).start()
    try:
        yield program
        await soon(lambda: not program.processes())
    finally:
        for pid in program.processes():
            os.kill(pid, signal.SIGKILL)


async def end(program: Program, number: signal.Signals) -> None:
    """End a program by a signal."""
    begin_s = time.monotonic()
    program.send(number)
    assert await program.wait() == 130
    assert time.monotonic() - begin_s < ENDS_WITHIN_S
