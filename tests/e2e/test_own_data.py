"""The user's own data: one command trains on a file, and a client without samples does not stop the others."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from sklearn.datasets import load_iris

from tests.support.program import ALL_COUNT, Program, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

JOB = """
name = "flowers"
[model]
args = { input_size = 4, hidden = 8, classes = 3 }
[data]
dataset = "flowers"
partition = "iid"
clients = 3
target = "species"
drop = ["id"]
[cohort]
clients = 3
[evaluation]
every = 0
[stop]
rounds = 2
"""


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    iris = load_iris()
    rows = [
        ",".join([f"plant-{i}", *map(str, x), str(iris.target_names[y])])
        for i, (x, y) in enumerate(zip(iris.data, iris.target, strict=True))
    ]
    path = tmp_path / "flowers.csv"
    path.write_text("\n".join(["id,a,b,c,d,species", *rows]))
    (tmp_path / "job.toml").write_text(JOB)
    return path


@pytest.mark.usefixtures("flowers")
async def test_one_command_trains_on_a_file(tmp_path: Path) -> None:
    judged = ("--set", "evaluation.every=1", "--test", "0.2", "--workers", "1")
    code, output = await run("run", "job.toml", "--from", "flowers.csv", *judged, *ALL_COUNT, cwd=tmp_path)
    assert code == 0, output
    assert "round 2 of 2: accuracy" in output
    assert "2 rounds, test accuracy" in output
    shard = safetensors.numpy.load_file(tmp_path / ".fedkeeper" / "shards" / "flowers-000" / "shard.safetensors")
    assert (shard["x"].shape, sorted(set(shard["y"].tolist()))) == ((40, 4), [0, 1, 2])


async def test_a_mistake_in_the_data_is_one_sentence_before_anything_starts(flowers: Path, tmp_path: Path) -> None:
    options = ("run", "job.toml", "--from", str(flowers), "--set", "data.target=kind")
    code, output = await run(*options, cwd=tmp_path)
    assert code == 2
    assert "it has no column 'kind', which data.target names (the columns are id, a, b, c, d, species)" in output
    assert "Traceback" not in output


async def test_a_client_without_samples_is_left_out_and_the_round_goes_on(flowers: Path, tmp_path: Path) -> None:
    program = await Program("up", "--workers", "1", cwd=tmp_path).start()
    await program.wait_for_line("ready: ")
    stage = ("stage", "--from", str(flowers), "--target", "species", "--drop", "id", "--clients", "3", "--register")
    code, output = await run(*stage, cwd=tmp_path)
    assert code == 0, output
    assert "3 clients with 50 to 50 samples (x: float32 (N, 4); y: int64 (N)), registered" in output
    assert 'dataset = "flowers"' in output
    empty: dict[str, Any] = {"x": np.zeros((0, 4), np.float32), "y": np.zeros(0, np.int64)}
    shard = tmp_path / ".fedkeeper" / "shards" / "flowers-001" / "shard.safetensors"
    safetensors.numpy.save_file(empty, shard)

    two_of_three = ("--set", "cohort.quorum=2", "--set", "cohort.deadline_s=600", "--set", "cohort.grace_s=600")
    code, output = await run("submit", "job.toml", *two_of_three, "--wait", cwd=tmp_path)
    assert code == 0, output
    job = output.split()[0]
    _, watched = await run("watch", job, "--json", cwd=tmp_path)
    events = [json.loads(line) for line in watched.splitlines()]
    failed = [event["event"] for event in events if event["what"] == "client.failed"]
    assert [(event["client"], event["final"]) for event in failed] == [("flowers-001", True)] * 2
    assert "it is empty: its tensors hold 0 samples" in failed[0]["reason"]
    assert [event["what"] for event in events].count("round.completed") == 2

    code, output = await run("clients", "add", "x", "--platform", "local", "--data-loc", str(shard), cwd=tmp_path)
    assert (code, "it is empty: its tensors hold 0 samples" in output) == (1, True)
    shard = shard.parents[1] / "flowers-000" / shard.name
    _, output = await run("clients", "add", "x", "--platform", "local", "--data-loc", str(shard), cwd=tmp_path)
    assert output == "registered x with 50 samples\n"
    program.send(signal.SIGINT)
    assert await program.wait() == 130, program.output
