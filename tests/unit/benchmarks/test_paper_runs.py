"""A run of the paper's has the same digest again, also if it was stopped; its row; the sizes of the networks."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rows
from benchmarks.paper import cells, runs, theirs
from benchmarks.paper.cells import Cell
from benchmarks.paper.runs import Begun
from benchmarks.rows import Planned
from benchmarks.simulation import Outcome
from tests.support.stopped_systems import let_time_pass

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.xdist_group("paper-runs")]


def tiny(state: str) -> Planned:
    """A cell of ten clients with the digits, four of them in each of four rounds."""
    cell = Cell("nn", 5, "adam", 10, state, "fedavg", 0.99)
    planned = cells.planned(cell, 1)
    job: dict[str, Any] = {
        **planned.job,
        "model": {"type": "nn", "args": {"hidden": 20}},
        "data": {"dataset": "digits", "partition": "shards", "clients": 10},
        "training": {**planned.job["training"], "local_epochs": 1},
        "cohort": {**planned.job["cohort"], "clients": 4},
        "stop": {"rounds": 4, "target_accuracy": 0.99},
    }
    return Planned(planned.names, job)


def result(begun: Begun, path: Path) -> dict[str, Any]:
    assert runs.make(begun, path)
    return dict(json.loads(path.read_text().splitlines()[-1]))


def test_a_run_has_the_same_digest_again_and_if_it_was_stopped(tmp_path: Path) -> None:
    planned, path = tiny("carry"), tmp_path / "rows.jsonl"
    whole = result(runs.begin(planned, tmp_path / "whole"), path)
    again = result(runs.begin(planned, tmp_path / "again"), path)

    stopped = runs.begin(planned, tmp_path / "stopped")
    assert not runs.make(stopped, path, until_s=0.0)
    assert not runs.make(stopped, path, until_s=0.0)
    resumed = result(stopped, path)

    broken = runs.begin(planned, tmp_path / "broken")
    break_off(broken)
    asyncio.run(let_time_pass(broken.folder / "broker", "paper", 30 * 86400.0))
    goes_on = result(broken, path)

    assert whole["model"] == again["model"] == resumed["model"] == goes_on["model"]
    assert whole["accuracy"] == again["accuracy"] == resumed["accuracy"] == goes_on["accuracy"]
    assert not list(tmp_path.glob("*/nn-*"))  # nothing is left of what has ended
    assert len(rows.read(path)) == 1
    assert result(runs.begin(tiny("reset"), tmp_path / "reset"), path)["model"] != whole["model"]

    assert [len(whole[name]) for name in ("accuracy", "round_s")] == [4, 4]
    assert set(whole["parts"]) == {"invocation_s", "clients_start_s", "training_s", "aggregation_s", "evaluation_s"}
    assert sum(whole["parts"].values()) == pytest.approx(whole["seconds"], abs=0.2)
    assert whole["processor"].startswith(("x86-64", "aarch64"))
    assert (whole["torch"], whole["device"], whole["commit"]) != ("", "", "")


def break_off(begun: Begun) -> None:
    """Stop a run in the middle of a round, as Ctrl-C does."""

    async def go_on_for_a_while() -> None:
        done = 0

        def is_enough(_: Outcome) -> bool:
            nonlocal done
            done += 1
            if done == 2:
                asyncio.get_running_loop().call_later(0.05, task.cancel)
            return False

        task = asyncio.ensure_future(runs._go_on(begun, is_enough, ""))
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(go_on_for_a_while())


@pytest.mark.parametrize("network", cells.NETWORKS)
def test_a_network_has_the_paper_s_number_of_parameters(network: str) -> None:
    from broker.messages import job_file
    from client_fn.training import models

    cell = next(cell for cell in cells.grid() if cell.network == network)
    job = job_file.from_dict(cells.planned(cell, 1).job)
    model = models.build(job.model, seed=1)
    assert sum(tensor.numel() for tensor in model.parameters()) == theirs.numbers()["parameters"][network]
