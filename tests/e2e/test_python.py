"""`fedkeeper.run` in a script as a person writes it: no guard of the main module, no event loop, or one that runs."""

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY
from tests.support.program import WITHIN_S

pytestmark = [pytest.mark.slow, pytest.mark.torch]

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
(SCRIPT,) = (code for code in BLOCK.findall((REPOSITORY / "README.md").read_text()) if "fedkeeper.run(" in code)

MORE = """
import asyncio
import logging
import threading

import numpy as np
import structlog
import torch

from fedkeeper import Cohort, Data, Job, Model, Stop

print("imported", __name__)
assert sorted(weights) == ["hidden.bias", "hidden.weight", "out.bias", "out.weight"]
assert torch.equal(run.state_dict()["out.bias"], torch.from_numpy(weights["out.bias"].copy()))
assert 0 < run.accuracy <= 1 and len(run.rounds) == 5 and len(run.digest) == 64
assert not structlog.is_configured() and not logging.getLogger().handlers


async def inside():
    model = Model(args={"input_size": 6, "classes": 3})
    job = Job(name="inside", model=model, data=Data(clients=3), cohort=Cohort(clients=3), stop=Stop(rounds=1))
    x = np.random.default_rng(1).normal(size=(90, 6)).astype("float32")
    return fedkeeper.run(job, x=x, y=np.arange(90) % 3, quiet=True, workers=1)


own = asyncio.run(inside())
assert own.accuracy is not None and own.job.data.dataset == "own"
assert own == fedkeeper.load_run("runs/latest")
print("threads", [thread.name for thread in threading.enumerate() if not thread.daemon])
"""


async def test_a_script_trains_without_a_loop_and_inside_of_one(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT + MORE)
    async with asyncio.timeout(WITHIN_S):
        program = await asyncio.create_subprocess_exec(
            sys.executable, "script.py", cwd=tmp_path, stdout=PIPE, stderr=PIPE
        )
        out, err = (text.decode() for text in await program.communicate())
    assert program.returncode == 0, err
    result, imported, threads = out.splitlines()
    (folder,) = (tmp_path / "runs").glob("*-mine-*")
    assert re.fullmatch(rf"0\.\d+ {re.escape(str(folder))}", result)
    assert imported == "imported __main__", "no worker imports it again"
    assert threads == "threads ['MainThread']"
    assert "mine-" in err
    assert "inside" not in err, "quiet"
    assert "Traceback" not in err
    assert [path.name for path in (tmp_path / ".fedkeeper").glob("run-*")] == []
