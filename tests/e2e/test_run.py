"""`fedkeeper run`: the quickstart and its mistakes, as a new user sees them."""

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.messages import job_file as jobs
from broker.messages import tensors as payload
from fedkeeper.exit_codes import ExitCode
from fedkeeper.runs import model_file, unfinished
from tests.support.fakes import soon
from tests.support.program import SHORT, Program, digest, run
from tests.support.stopped_systems import let_time_pass

FIVE = (*SHORT, "--set", "stop.rounds=5", "--set", "training.local_epochs=5", "--workers", "1")
"""Options of a job whose rounds take so long that a test can stop it in the one that it has seen."""

LONG = ("--set", "training.local_epochs=100", "--set", "cohort.deadline_s=600")
"""Options of a job whose first round a test need not hurry to stop."""

pytestmark = [pytest.mark.slow, pytest.mark.torch]


async def test_the_quickstart_has_one_model_with_one_worker_with_two_and_if_one_is_killed(tmp_path: Path) -> None:
    code, output = await run("run", "quickstart", *SHORT, "--workers", "1", cwd=tmp_path)
    assert code == 0, output
    check_results(tmp_path, output)
    code, of_two = await run("run", "quickstart", *SHORT, "--workers", "2", cwd=tmp_path)
    assert code == 0, of_two
    assert digest(of_two) == digest(output)
    of_rounds = [row["model"] for row in metrics(tmp_path)]
    assert of_rounds[-1] == digest(output)
    await run_with_a_killed_worker(tmp_path)
    assert [row["model"] for row in metrics(tmp_path)][:2] == of_rounds


def check_results(tmp_path: Path, output: str) -> None:
    """The latest run has left a model, metrics and a plot."""
    folder = (tmp_path / "runs" / "latest").resolve()
    assert str(folder.relative_to(tmp_path)) in output

    tensors, metadata = payload.decode((folder / "model.safetensors").read_bytes())
    assert sum(array.size for array in tensors.values()) == 64 * 500 + 500 + 500 * 10 + 10
    assert (metadata["job"], metadata["round"]) == (folder.name.removeprefix(folder.name[:11]), "2")
    assert all(np.isfinite(array).all() for array in tensors.values())
    rows = metrics(tmp_path)
    assert [row["round"] for row in rows] == [1, 2]
    assert all(0 < row["accuracy"] <= 1 and row["loss"] > 0 and len(row["clients"]) == 10 for row in rows)
    for row in rows:
        phases = [row[f"{phase}_s"] for phase in ("invocation", "clients_start", "training", "aggregation")]
        assert sum(phases) == pytest.approx(row["round_s"])
        assert row["bytes_in"] > 10 * 37_510 * 4
        assert row["bytes_out"] > 0
    assert rows[-1]["model"] == digest(output)
    assert jobs.from_text((folder / "job.toml").read_text()).stop.rounds == 2
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the latest run's rounds."""
    return [json.loads(line) for line in (folder / "runs/latest/metrics.jsonl").read_text().splitlines()]


async def run_with_a_killed_worker(tmp_path: Path) -> None:
    """Kill one of two workers during a run, which replaces it, and stop that run two rounds later."""
    # So many rounds that it can't end before the worker is stopped, however late that is.
    job = (*SHORT, "--set", "stop.rounds=1000")
    program = await Program("run", "quickstart", "-v", *job, "--workers", "2", cwd=tmp_path).start()
    await program.wait_for_line("update.counted")
    worker = program.copies("client_fn.handlers.local")[0]
    os.kill(worker, signal.SIGSTOP)
    with contextlib.suppress(TimeoutError):
        while True:  # until the round waits for the task of the stopped worker
            await program.wait_for_line("update.counted", timeout_s=5)
    os.kill(worker, signal.SIGKILL)
    await program.wait_for_line("client.failed")
    for _ in range(2):
        await program.wait_for_line("model.evaluated")
    program.send(signal.SIGTERM)
    assert await program.wait() == 130, program.output


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("starting a server", signal.SIGINT),
        ("starting a server", signal.SIGHUP),
        ("update.counted", signal.SIGTERM),
        ("update.counted", signal.SIGHUP),
    ],
)
async def test_each_signal_ends_every_process(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    program = await Program("run", "quickstart", "-v", *LONG, "--workers", "1", cwd=tmp_path).start()
    await program.wait_for_line(moment)
    await soon(lambda: len(program.processes()) >= 2)
    program.send(number)
    assert await program.wait() == 130
    await soon(lambda: not program.processes())
    assert "Traceback" not in program.output
    assert program.output.splitlines()[-1].startswith("stopped; everything that was started is ended")
    assert not _stores(tmp_path), "no round was complete"
    assert not list((tmp_path / ".fedkeeper").glob("run-*"))


async def test_a_run_that_was_stopped_or_killed_goes_on_to_the_same_model(tmp_path: Path) -> None:
    """The second time after an hour: its round's deadline has passed."""
    _, undisturbed = await run("run", "quickstart", *FIVE, cwd=tmp_path)
    await _stop_after_the_open_round(tmp_path)
    folder = (tmp_path / "runs" / "latest").resolve()
    assert (folder / "store").stat().st_mode & 0o777 == 0o700

    program = await Program("run", "--resume", "runs/latest", cwd=tmp_path).start()
    await program.wait_for_line("going on with job")
    number = len((folder / "metrics.jsonl").read_text().splitlines())
    await program.wait_for_line(f"round {number + 1} of 5")
    program.send(signal.SIGKILL)
    await program.wait()
    await soon(lambda: not program.processes())
    await let_time_pass(folder / "store", unfinished.read(folder).job, 3600.0)

    code, output = await run("run", "--resume", "runs/latest", cwd=tmp_path)
    assert code == 0, output
    assert digest(output) == digest(undisturbed)
    assert model_file.verified(folder / "model.safetensors")["sha256"] == digest(undisturbed)
    assert [json.loads(line)["round"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert output.splitlines()[-1] == f"runs/{folder.name}/model.safetensors", "the last line is the model's path"
    assert not (folder / "store").exists()
    assert not list(folder.glob(".*"))
    code, output = await run("run", "--resume", "runs/latest", cwd=tmp_path)
    assert (code, "its job has ended" in output) == (1, True)


def _stores(folder: Path) -> list[Path]:
    return list(folder.rglob("store"))


async def _stop_after_the_open_round(folder: Path) -> None:
    """Press Ctrl-C once, when the first of five rounds is complete."""
    program = await Program("run", "quickstart", *FIVE, cwd=folder).start()
    await program.wait_for_line("round 1 of 5")
    program.send(signal.SIGINT)
    await program.wait_for_line("Ctrl-C again ends at once")
    assert await program.wait() == 130, program.output
    await soon(lambda: not program.processes())
    assert "Traceback" not in program.output
    assert "  fedkeeper run --resume runs/" in program.output
    assert program.output.splitlines()[-1].endswith("with its broker's password"), "nothing is said after the end"


async def test_a_killed_program_leaves_no_process(tmp_path: Path) -> None:
    program = await Program("run", "quickstart", "-v", *LONG, cwd=tmp_path).start()
    await program.wait_for_line("update.counted")
    assert program.processes("client_fn/training"), "the trainers carry the mark too"
    program.send(signal.SIGKILL)
    await program.wait()
    await soon(lambda: not program.processes())


async def test_a_killed_broker_ends_the_run_with_one_sentence(tmp_path: Path) -> None:
    program = await Program("run", "quickstart", "-v", *LONG, "--workers", "1", cwd=tmp_path).start()
    await program.wait_for_line("update.counted")
    (broker,) = program.processes("nats-server")
    os.kill(broker, signal.SIGKILL)
    assert await program.wait() == 1
    assert "error:" in program.output
    assert "nats-server" in program.output
    assert "Traceback" not in program.output
    await soon(lambda: not program.processes())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--set", "cohort.clients=0"), "cohort.clients = 0: expected a whole number >= 1"),
        (("--set", "cohort.quorum=11"), "cohort.quorum = 11: at most cohort.clients"),
        (("--set", "training.optimiser=sgd"), "did you mean 'optimizer'?"),
        (("--set", "nonsense"), "section.key=value"),
    ],
)
async def test_a_mistake_in_a_job_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    code, output = await run("run", "quickstart", *arguments, cwd=tmp_path)
    assert (code, "Traceback" in output) == (ExitCode.USAGE, False)
    assert sentence in output


async def test_a_missing_job_file_is_one_sentence(tmp_path: Path) -> None:
    code, output = await run("run", "nowhere.toml", cwd=tmp_path)
    assert code == ExitCode.USAGE
    assert "no job file 'nowhere.toml'; give a path, or one of mnist-cnn, mnist-nn, quickstart" in output


async def test_a_model_that_can_not_be_built_is_one_sentence(tmp_path: Path) -> None:
    command = ("run", "quickstart", "--set", "model.type=nowhere:Model", "--workers", "1")
    code, output = await run(*command, cwd=tmp_path, FEDKEEPER_ALLOW="nowhere")
    assert (code, "Traceback" in output) == (ExitCode.JOB_FAILED, False)
    assert "model 'nowhere:Model': nowhere can't be imported: ModuleNotFoundError" in output


async def test_a_model_of_the_users_own_is_trained(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Sequential):\n"
        "    def __init__(self, width):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.Linear(width, 10))\n"
    )
    (tmp_path / "job.toml").write_text(
        '[model]\ntype = "mine:Mine"\nargs = { width = 16 }\n[stop]\nrounds = 1\n[training]\noptimizer = "sgd"\n'
    )
    code = str(tmp_path / "mine.py")
    exit_code, output = await run("run", "job.toml", "--workers", "1", cwd=tmp_path, FEDKEEPER_CODE=code)
    assert exit_code == 0, output
    folder = (tmp_path / "runs" / "latest").resolve()
    tensors, _ = payload.decode((folder / "model.safetensors").read_bytes())
    assert tensors["2.num_batches_tracked"] > 0


async def test_the_error_for_missing_mnist_says_which_files_to_put_where(tmp_path: Path) -> None:
    code, output = await run("run", "mnist-nn", "--data", str(tmp_path / "nothing"), cwd=tmp_path)
    assert (code, "Traceback" in output) == (1, False)
    assert "train-images-idx3-ubyte" in output
    assert not (tmp_path / ".fedkeeper").exists(), "nothing was started"
