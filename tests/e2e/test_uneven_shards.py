"""Clients whose shards are too small for the model fail with a reason, and the round goes on without them."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.program import run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

OWN: Final = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
"""
JOB: Final = """
[model]
type = "mine:Net"
[training]
local_epochs = 1
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 0.01
clients = 20
[cohort]
clients = 20
quorum = 5
deadline_s = 600
grace_s = 600
[stop]
rounds = 1
"""


async def test_single_samples_under_batch_normalisation(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "job.toml").write_text(JOB)
    code, output = await run("run", "job.toml", "--workers", "1", cwd=tmp_path)
    assert code == 0, output
    assert "batch normalisation needs two samples in a batch, and this one has one: set training.batch_size" in output
    assert "attempt 2" not in output
    assert "13 clients (7 missing)" in output
