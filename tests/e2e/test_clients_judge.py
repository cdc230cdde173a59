"""A job whose clients judge its models: their sums give what one would measure on all held-out samples at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from client_fn.training import holdout, tensors, work
from client_fn.training.orders import Evaluate, Evaluation, Model
from tests.support.program import run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

HOLDOUT = 0.2
METRICS = ("accuracy", "auroc")
JOB = f"""
name = "judged"
data = {{ dataset = "digits", clients = 10 }}
cohort = {{ clients = 10, quorum = 1.0, deadline_s = 600.0 }}
evaluation = {{ every = 0, holdout = {HOLDOUT}, metrics = {json.dumps(METRICS)} }}
stop = {{ rounds = 2 }}
"""


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def central(folder: Path, model: bytes) -> dict[str, float]:
    """What a model is worth on the union of the clients' hold-outs."""
    parts = [holdout.split(tensors.from_bytes(file.read_bytes()), HOLDOUT).held for file in sorted(folder.glob("*/*"))]
    held = {name: torch.cat([part[name] for part in parts]) for name in ("x", "y")}
    order = Evaluate(Model("nn", {"input_size": 64, "classes": 10}), Evaluation(metrics=METRICS))
    facts, _ = work.do(order, {"weights": model, "shard": tensors.to_bytes(held)}, lambda _: None)
    assert facts["samples"] == len(held["y"])
    measured: dict[str, float] = facts["metrics"]
    return measured


async def test_the_last_model_s_metrics_are_those_of_all_held_out_samples_at_one_place(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    code, output = await run("run", "job.toml", "--workers", "1", cwd=tmp_path)
    assert code == 0, output
    results = tmp_path / "runs" / "latest"
    rounds, clients = lines_of(results / "metrics.jsonl"), lines_of(results / "clients.jsonl")

    judged = rounds[-1]["evaluation_clients"]
    expected = central(tmp_path / ".fedkeeper/shards", (results / "model.safetensors").read_bytes())
    assert judged["metrics"]["accuracy"] == expected["accuracy"]
    assert judged["metrics"]["auroc"] == pytest.approx(expected["auroc"], abs=1e-12)
    assert judged["metrics"]["loss"] == pytest.approx(expected["loss"])
    assert judged["clients"] == 10

    # No task was added but those for the last model.
    assert [(row["round"], row["purpose"]) for row in clients] == [
        *[(1, "train")] * 10,
        *[(2, "train")] * 10,
        *[(3, "evaluate")] * 10,
    ]
    assert judged["samples"] == sum(row["judged"] for row in clients[20:])
    for row in clients[:20]:
        shard = tmp_path / ".fedkeeper/shards" / row["client"] / "shard.safetensors"
        assert row["samples"] + row["judged"] == len(tensors.from_bytes(shard.read_bytes())["y"])
