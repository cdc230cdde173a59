"""What a program reads of a run folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedkeeper
from broker.messages import tensors
from fedkeeper.errors import Missing
from fedkeeper.runs.run import Run

PHASES = ("invocation_s", "clients_start_s", "training_s", "aggregation_s", "evaluation_s")


def row(number: int, **more: Any) -> dict[str, Any]:
    times = dict.fromkeys(PHASES, 0.5)
    return {
        "round": number,
        "model": f"{number}" * 64,
        "client_metrics": {"loss": 0.9},
        "round_s": 2.0,
        **times,
        **more,
    }


def judged(accuracy: float, loss: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "loss": loss, "metrics": {"accuracy": accuracy, "loss": loss}}


def run_of(folder: Path, *rows: dict[str, Any], job: str = "name = 'mine'\n") -> Run:
    folder = folder / "2026-11-27-mine-1a2b3c"
    folder.mkdir()
    (folder / "job.toml").write_text(job)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return fedkeeper.load_run(folder)


def test_a_run_knows_its_job_its_rounds_and_what_was_measured(tmp_path: Path) -> None:
    run = run_of(tmp_path, row(1, **judged(0.7, 0.4)), row(2, **judged(0.6, 0.5)))
    assert (run.id, run.job.name, len(run.rounds)) == ("mine-1a2b3c", "mine", 2)
    assert (run.accuracy, run.loss, run.metrics) == (0.6, 0.5, {"accuracy": 0.6, "loss": 0.5})
    assert run.best is not None
    assert run.best["round"] == 1
    assert run.digest == "2" * 64
    (tmp_path / "latest").symlink_to(run.folder.name)
    assert fedkeeper.load_run(tmp_path / "latest") == fedkeeper.load_run(str(run.folder)) == run


def test_what_clients_judged_counts_where_the_server_has_no_test_set(tmp_path: Path) -> None:
    clients = {"evaluation_clients": {"metrics": {"mae": 3.0, "loss": 9.0}}, "accuracy": None, "loss": None}
    better = {"evaluation_clients": {"metrics": {"mae": 2.0, "loss": 4.0}}}
    run = run_of(tmp_path, row(1, **better), row(2, **clients), job="[evaluation]\nbest = 'mae'\nholdout = 0.2\n")
    assert (run.accuracy, run.loss, run.metrics["mae"]) == (None, 9.0, 3.0)
    assert run.best is not None
    assert run.best["round"] == 1


def test_a_run_without_a_completed_round_has_no_result(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert (run.rounds, run.metrics, run.accuracy, run.loss, run.best, run.digest) == ([], {}, None, None, None, "")
    with pytest.raises(Missing, match="has no last model"):
        _ = run.model
    with pytest.raises(Missing, match=r"has no best model; the job names no metric in evaluation\.best"):
        run.state_dict("best")
    assert "0 of at most 20" in run._repr_html_()


def test_the_model_is_read_as_numpy_arrays(tmp_path: Path) -> None:
    run = run_of(tmp_path, row(1))
    run.folder.joinpath("model.safetensors").write_bytes(tensors.encode({"w": np.arange(3, dtype=np.float32)}))
    assert run.model["w"].tolist() == [0, 1, 2]
    assert run.model_file == run.folder / "model.safetensors"


def test_a_picture_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    picture = run_of(tmp_path, row(1, **judged(0.7, 0.4)), row(2, **judged(0.6, 0.5))).plot()
    assert picture.axes[0].get_title() == "Test accuracy"
    assert picture._repr_png_().startswith(b"\x89PNG")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"has no job\.toml: give the folder of a run, such as runs/latest"):
        fedkeeper.load_run(tmp_path)
