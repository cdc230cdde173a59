"""Which runs the folder of a sweep stands for."""

from pathlib import Path

import pytest

from fedkeeper.errors import Missing
from fedkeeper.runs import stored
from fedkeeper.runs.stored import Ended
from fedkeeper.sweeps import folder as sweep_folder
from fedkeeper.sweeps import grid
from fedkeeper.sweeps import plan as sweep_plan


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"round": 1}\n')
    return folder


def test_a_run_that_is_named_twice_is_read_once_by_its_own_name(tmp_path: Path) -> None:
    a_run(tmp_path / "one")
    (tmp_path / "latest").symlink_to("one")
    (run,) = sweep_folder.read_all([tmp_path / "latest", tmp_path / "one"])
    assert run.folder == tmp_path / "one"


def test_a_sweeps_folder_stands_for_the_last_attempts_of_its_runs_that_have_ended(tmp_path: Path) -> None:
    plan = sweep_plan.create({"name": "demo"}, grid.parse(["training.batch_size=8,16,32"]), 1, id="3f", created_s=1.0)
    sweep_plan.write(plan, tmp_path)
    with pytest.raises(Missing, match=r"no run of .* has ended yet"):
        sweep_folder.read_all([tmp_path])
    for name, phase in (("demo-3f-1", "failed"), ("demo-3f-1-t2", "completed"), ("demo-3f-2", "completed")):
        stored.write_ended(a_run(tmp_path / name), Ended(name, phase))  # type: ignore[arg-type]
    a_run(tmp_path / "demo-3f-3")
    assert [run.name for run in sweep_folder.read_all([tmp_path])] == ["demo-3f-1-t2", "demo-3f-2"]
