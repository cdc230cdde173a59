"""The plan of a sweep: its runs, their seeds and their ids, and its file."""

from pathlib import Path
from typing import Any

import pytest

from broker.messages.errors import JobError
from broker.messages.learning_rules import LOSSES
from fedkeeper.errors import BadOption, Missing
from fedkeeper.sweeps import grid
from fedkeeper.sweeps import plan as sweep_plan
from fedkeeper.sweeps.plan import Machine, Plan

BASE: dict[str, Any] = {"name": "demo", "training": {"optimizer": "sgd"}}


def plan(*grids: str, seeds: int = 1, raw: dict[str, Any] = BASE) -> Plan:
    return sweep_plan.create(raw, grid.parse(grids), seeds, id="3fa9c1", created_s=1.0)


def test_every_combination_has_the_grids_values_and_the_files() -> None:
    runs = sweep_plan.runs(plan("training.learning_rate=0.1,0.01", "stop.rounds=2,3"))
    got = [(run.job.training.learning_rate, run.job.stop.rounds, run.job.training.optimizer) for run in runs]
    assert got == [(0.1, 2, "sgd"), (0.1, 3, "sgd"), (0.01, 2, "sgd"), (0.01, 3, "sgd")]
    assert {(run.job.seed, run.job.cohort.seed) for run in runs} == {(1, None)}


def test_a_seed_changes_the_training_but_neither_cohorts_nor_data() -> None:
    runs = sweep_plan.runs(plan("training.batch_size=8,16", seeds=3, raw={"seed": 7, "data": {"seed": 4}}))
    assert [(run.job.seed, run.job.training.batch_size) for run in runs] == [
        (7, 8),
        (7, 16),
        (8, 8),
        (8, 16),
        (9, 8),
        (9, 16),
    ]
    assert {(run.job.draw_seed, run.job.data.seed) for run in runs} == {(7, 4)}


def test_a_grid_may_vary_the_draws_too() -> None:
    runs = sweep_plan.runs(plan("cohort.seed=1,2", seeds=2))
    assert [run.job.cohort.seed for run in runs] == [1, 2, 1, 2]
    runs = sweep_plan.runs(plan("seed=4,5"))
    assert [(run.job.seed, run.job.draw_seed) for run in runs] == [(4, 1), (5, 1)]


def test_a_datasets_input_size_is_that_of_each_combination() -> None:
    runs = sweep_plan.runs(plan("data.dataset=digits,mnist"))
    assert [run.job.model.args for run in runs] == [{"input_size": 64}, {"input_size": 784}]


@pytest.mark.parametrize(
    ("grids", "seeds", "reason"),
    [
        ((), 1, "nothing to compare: give --grid section.key=value,value or --seeds N"),
        (("id=a,b",), 1, "--grid id: the sweep gives its jobs their ids"),
        (("seed=1,2",), 2, "--grid seed and --seeds: give one of them"),
        (("training.batch_size=1,2",), 5000, "at most 9999 runs are possible, not 10000"),
    ],
)
def test_what_can_not_be_swept_is_refused(grids: tuple[str, ...], seeds: int, reason: str) -> None:
    with pytest.raises(BadOption, match=reason):
        plan(*grids, seeds=seeds)


@pytest.mark.parametrize(
    ("grids", "reason"),
    [
        (("training.batch_size=8,0",), "training.batch_size = 0: expected a whole number >= 1"),
        (("training.batch_sze=8,16",), "did you mean 'batch_size'"),
        (("cohort.clients=5,11",), "cohort.clients = 11"),
        (("seed.x=1,2",), "seed.x: seed is no table"),
    ],
)
def test_a_bad_field_or_value_of_any_combination_is_named(grids: tuple[str, ...], reason: str) -> None:
    with pytest.raises(JobError) as refused:
        plan(*grids, raw={"seed": 3})
    assert reason in str(refused.value)


OWN = "a function of yours as 'package.module:function'"


def test_all_bad_values_of_a_grid_are_told_once() -> None:
    with pytest.raises(JobError) as refused:
        plan("training.batch_size=8,0,-1", "training.loss=mse,mze", "name=a,'A B'", seeds=2)
    assert str(refused.value).splitlines() == [
        "4 mistakes",
        "the sweep's jobs: name = 'A B': use 1 to 40 of a-z, 0-9 and '-'; did you mean 'a-b'?",
        f"the sweep's jobs: training.loss = 'mze': did you mean 'mse'? expected one of {', '.join(LOSSES)}, or {OWN}",
        "the sweep's jobs: training.batch_size = 0: expected a whole number >= 1",
        "the sweep's jobs: training.batch_size = -1: expected a whole number >= 1",
    ]


def test_ids_follow_from_the_sweep_and_the_run() -> None:
    several = plan("training.batch_size=8,16", seeds=2)
    runs = sweep_plan.runs(several)
    assert [sweep_plan.job_id(several, run) for run in runs] == [
        "demo-3fa9c1-1-s1",
        "demo-3fa9c1-2-s1",
        "demo-3fa9c1-1-s2",
        "demo-3fa9c1-2-s2",
    ]
    assert sweep_plan.job_id(several, runs[0], 2) == "demo-3fa9c1-1-s1-t2"
    one = plan("training.batch_size=8,16", raw={"name": "a-name-of-forty-characters-is-possible-1"})
    (first, _) = sweep_plan.runs(one)
    assert sweep_plan.job_id(one, first) == "a-name-of-forty-characters-is-p-3fa9c1-1"
    assert first.label == "batch_size 8"
    assert runs[2].label == "batch_size 8, seed 2"


def test_the_file_holds_all_of_it(tmp_path: Path) -> None:
    written = sweep_plan.create(
        BASE, grid.parse(["training.schedule={name='cosine'},{name='step'}"]), 2, id="a", created_s=2.5, broker="b",
        machine=Machine(at_once=3, allow=("x:Y",)),
    )  # fmt: skip
    sweep_plan.write(written, tmp_path / "new")
    assert sweep_plan.read(tmp_path / "new") == written


def test_a_folder_without_a_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"sweep.toml is missing: give the folder of a sweep, such as runs/latest"):
        sweep_plan.read(tmp_path)
    (tmp_path / "sweep.toml").write_text("id = 3")
    with pytest.raises(Missing, match=r"sweep.toml can't be read"):
        sweep_plan.read(tmp_path)
