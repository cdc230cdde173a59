"""The user's code and data, as they are now: nothing stale, nothing of other clients, nothing but what is allowed."""

import contextlib
import json
import shlex
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_fn.data import datasets, shards
from fedkeeper.exit_codes import ExitCode
from tests.support.program import Program, digest, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

CODE = """
import random
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    seen = 0

    def __init__(self, width=16):
        super().__init__()
        self.first = nn.Linear(64, width)
        self.second = nn.Linear(width, 10)
        self.first.bias.data += float(np.random.rand()) + random.random()
        self.batches = 0

    def forward(self, x):
        self.batches += 1
        Net.seen += 1
        if self.training and self.batches > 3:
            self.first.weight.requires_grad_(True)
        noise = float(np.random.rand()) + random.random() + self.batches / 100 + Net.seen / 100
        return self.second(torch.relu(self.first(x.flatten(1)))) * (1 + noise / 100)

class Thawing(Net):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(64, 10)
        self.extra.weight.requires_grad_(True)
        self.register_buffer("summary", torch.zeros(10), persistent=False)

    def forward(self, x):
        self.summary = 0.9 * self.summary + super().forward(x).detach().mean(0)
        return super().forward(x) + self.extra(x.flatten(1)) + self.summary
"""

JOB = """
name = "own"
[model]
type = "mine:{name}"
[training]
local_epochs = 1
[data]
dataset = "{dataset}"
partition = "iid"
clients = 4
[cohort]
clients = 4
deadline_s = 600
[evaluation]
every = {every}
[stop]
rounds = 2
"""


def write(folder: Path, code: str = CODE, name: str = "Net", dataset: str = "digits") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(code)
    (folder / "job.toml").write_text(JOB.format(name=name, dataset=dataset, every=int(dataset == "digits")))


@contextlib.asynccontextmanager
async def started(*arguments: str, cwd: Path, ready: str = "ready: ", **environment: str) -> AsyncIterator[Program]:
    """Run a program, from the line that says that it is ready to the end of the block."""
    program = await Program(*arguments, cwd=cwd, **environment).start()
    try:
        await program.wait_for_line(ready)
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            program.send(signal.SIGTERM)
        await program.wait()


async def test_models_that_count_draw_and_thaw_have_one_digest_for_any_number_of_workers(tmp_path: Path) -> None:
    models = ("mine:Net", "mine:Thawing")
    digests: dict[str, set[str]] = {model: set() for model in models}
    for workers in ("1", "3"):
        folder = tmp_path / workers
        write(folder)
        async with started("up", "--code", ".", "--workers", workers, cwd=folder):
            for model in models:
                digests[model].add(digest(await submitted(folder, "--set", f"model.type={model}")))
    assert [len(digests[model]) for model in models] == [1, 1]


async def submitted(cwd: Path, *options: str) -> str:
    code, output = await run("submit", "job.toml", "--wait", *options, cwd=cwd)
    assert code == 0, output
    return output


async def test_edited_code_is_used_by_the_next_job_without_a_restart(tmp_path: Path) -> None:
    write(tmp_path)
    async with started("up", "--code", ".", "--workers", "1", cwd=tmp_path):
        first = await submitted(tmp_path)
        write(tmp_path, CODE.replace("width=16", "width=32"))
        second = await submitted(tmp_path)
        write(tmp_path)
        assert digest(await submitted(tmp_path)) == digest(first)
    assert "started: 1,210 parameters" in first
    assert "started: 2,410 parameters" in second


async def test_changed_data_is_used_by_the_next_job_and_deleted_data_is_missing(tmp_path: Path) -> None:
    """Flipped labels give one other digest, and the old one when they are flipped back."""
    write(tmp_path, dataset="own")
    digits = datasets.load("digits")
    (tmp_path / "data").mkdir()

    def store(labels: Any) -> None:
        for i in range(4):
            shards.write(str(tmp_path / "data" / f"c-{i}.safetensors"), digits.train_x[i::40], labels[i::40])

    store(digits.train_y)
    async with started("up", "--code", ".", "--workers", "2", cwd=tmp_path):
        for i in range(4):
            place = ("--data-loc", str(tmp_path / "data" / f"c-{i}.safetensors"), "--label", "data=own")
            code, output = await run("clients", "add", f"c-{i}", "--platform", "local", *place, cwd=tmp_path)
            assert code == 0, output
        before = digest(await submitted(tmp_path))
        store(9 - digits.train_y)
        flipped = {digest(await submitted(tmp_path)) for _ in range(2)}
        store(digits.train_y)
        assert digest(await submitted(tmp_path)) == before
        (tmp_path / "data" / "c-2.safetensors").unlink()
        code, output = await run(
            "submit",
            "job.toml",
            "--wait",
            "--set",
            "cohort.on_failure=stop",
            "--set",
            "cohort.max_attempts=1",
            cwd=tmp_path,
        )
    assert len(flipped) == 1
    assert flipped != {before}
    assert code == 3
    assert "(c-2)" in output
    assert " failed: DataMissing" in output.splitlines()[-1]


async def test_a_site_with_other_code_than_the_server_says_so_instead_of_training(tmp_path: Path) -> None:
    write(tmp_path / "server")
    write(tmp_path / "site", CODE + "\n# a newer version\n")
    broker = tmp_path / "server"
    async with started("up", "--code", ".", "--workers", "1", cwd=broker) as up:
        export = await up.wait_for_line("  export ")
        [url] = shlex.split(export.partition("FEDKEEPER_URL=")[2])
        bridge = ("bridge", "local", "--platform", "site", "--url", url, "--code", ".", "--workers", "1")
        async with started(*bridge, cwd=tmp_path / "site", ready="the bridge is up"):
            code, output = await run(
                "stage", "job.toml", "--to", "shards", "--register", "--platform", "site", cwd=broker
            )
            assert code == 0, output
            code, output = await run("submit", "job.toml", "--wait", cwd=broker)
            _, listed = await run("jobs", cwd=broker)
    assert code == 3
    last = output.splitlines()[-1]
    assert " failed: CodeDiffers: the server holds code" in last, "the cause comes first"
    assert last.endswith("round 1 failed, and another one would fail in the same way")
    assert "round 2" not in output
    assert "attempt 2" not in output
    assert "CodeDiffers: the server holds code" in listed


async def test_a_library_that_the_code_needs_is_named_before_it_is_imported(tmp_path: Path) -> None:
    write(tmp_path, "import no_such_library\n" + CODE)
    (tmp_path / "requirements.txt").write_text("no-such-library>=2\ntorch>=2\n")
    code, output = await run("run", "job.toml", "--code", ".", "--workers", "1", cwd=tmp_path)
    assert code == ExitCode.JOB_FAILED
    assert "requirements.txt asks for no-such-library>=2 (not installed)" in output


async def failing_with(type_: str, folder: Path) -> str:
    """Submit a job whose model has this type; return what is said."""
    code, output = await run("submit", "job.toml", "--wait", "--set", f"model.type={type_}", cwd=folder)
    assert code == ExitCode.JOB_FAILED
    return output


async def trains_the_quickstart(folder: Path) -> None:
    code, output = await run("submit", "quickstart", "--wait", "--set", "stop.rounds=1", cwd=folder)
    assert code == 0, output


async def test_a_job_s_message_makes_nobody_import_what_is_not_allowed(tmp_path: Path) -> None:
    write(tmp_path, "from pathlib import Path\nPath('imported').touch()\n")
    async with started("up", "--workers", "1", cwd=tmp_path):
        for type_ in ("lib2to3.__main__:X", "venv.__main__:X", "subprocess:Popen"):
            output = await failing_with(type_, tmp_path)
            assert "is not allowed here" in output
            assert "--allow" in output or "double underscores" in output
        await trains_the_quickstart(tmp_path)
    assert not (tmp_path / "imported").exists()


async def test_a_job_s_message_makes_nobody_call_what_the_code_has_imported(tmp_path: Path) -> None:
    write(tmp_path, "from subprocess import run\n")
    async with started("up", "--workers", "1", "--code", ".", cwd=tmp_path):
        output = await failing_with("mine:run", tmp_path)
        await trains_the_quickstart(tmp_path)
    assert "is neither a class of torch.nn.Module nor a function of that package" in output


async def test_a_site_may_show_its_clients_metrics_only_as_means(tmp_path: Path) -> None:
    write(tmp_path)
    async with started("up", "--code", ".", "--metrics", "sum", "--workers", "1", cwd=tmp_path):
        job = (await submitted(tmp_path)).split()[0]
        _, lines = await run("watch", job, "--json", cwd=tmp_path)
    events = [json.loads(line) for line in lines.splitlines()]
    counted = [event["event"] for event in events if event["what"] == "update.counted"]
    completed = [event["event"] for event in events if event["what"] == "round.completed"]
    assert {json.dumps(event["metrics"]) for event in counted} == {"{}"}
    assert all(np.isfinite(event["metrics"]["loss"]) for event in completed)
