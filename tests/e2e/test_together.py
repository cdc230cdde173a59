"""A whole job whose clients are trained together: each client's update counts once, and the model is as good."""

import json
from pathlib import Path

import pytest

from fedkeeper.runs import summary
from tests.support.program import ALL_COUNT, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

ACCURACY = 0.8083
"""Of the quickstart after three rounds, its clients trained one by one."""


async def test_a_job_with_four_clients_at_once(tmp_path: Path) -> None:
    options = (*ALL_COUNT, "--set", "stop.rounds=3", "--workers", "1")
    code, output = await run("run", "quickstart", *options, cwd=tmp_path, FEDKEEPER_TOGETHER="4")
    assert code == 0, output
    assert summary.TOGETHER in output
    rounds, clients = (
        [json.loads(line) for line in (tmp_path / f"runs/latest/{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "clients")
    )
    assert [(len(row["clients"]), row["missing"]) for row in rounds] == [(10, [])] * 3
    assert rounds[-1]["accuracy"] == pytest.approx(ACCURACY, abs=0.02)
    # Each client once in each round; how many came together in time is a matter of this machine's load.
    assert sorted((row["round"], row["client"]) for row in clients) == sorted(
        (row["round"], client) for row in rounds for client in row["clients"]
    )
    assert max(row["metrics"].get("together", 1.0) for row in clients) in (2.0, 3.0, 4.0)
    assert {row["attempt"] for row in clients} == {1}
