"""The commands `sweep`, `compare` and `plot`: what is refused before anything starts, and what is printed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from broker.messages import job_file
from fedkeeper.errors import BadOption
from fedkeeper.runs import stored
from fedkeeper.runs.stored import Ended
from fedkeeper.sweeps import grid, whole_sweep
from fedkeeper.sweeps import plan as sweep_plan
from fedkeeper.sweeps.plan import Machine, Plan
from tests.support.command import run_here

TABLE: dict[str, Any] = {"name": "demo"}


def a_run(folder: Path, *accuracies: float, **tables: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "job.toml").write_text(job_file.to_toml(job_file.from_dict({"stop": {"target_accuracy": 0.9}} | tables)))
    rows = [
        {"round": number, "metrics": {"accuracy": value}, "round_s": 2.0, "model": "ab" * 32}
        | dict.fromkeys(("invocation_s", "clients_start_s", "training_s", "aggregation_s", "evaluation_s"), 0.25)
        for number, value in enumerate(accuracies, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """The folder of a sweep with two sizes and two seeds, of which one run has failed."""
    plan = sweep_plan.create(TABLE, grid.parse(["training.batch_size=8,16"]), 2, id="3fa9c1", created_s=1.0)
    sweep_plan.write(plan, tmp_path / "sweep")
    for run, accuracies in zip(sweep_plan.runs(plan), ((0.5,), (0.75,), (0.25,), ()), strict=True):
        folder = tmp_path / "sweep" / sweep_plan.job_id(plan, run)
        a_run(folder, *accuracies, seed=run.job.seed, training={"batch_size": run.job.training.batch_size})
        ended = Ended(folder.name, "completed") if accuracies else Ended(folder.name, "failed", "no quorum")
        stored.write_ended(folder, ended)
    return tmp_path / "sweep"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["quickstart"], "nothing to compare: give --grid section.key=value,value or --seeds N"),
        (["quickstart", "--grid", "training.batch_size=8,0"], "training.batch_size = 0: expected a whole number >= 1"),
        (["quickstart", "--grid", "training.batch_sze=8"], "did you mean 'batch_size'"),
        (["quickstart", "--grid", "training.batch_size=8,8"], "8 is there twice"),
        (["quickstart", "--grid", "seed=1,2", "--set", "seed=3"], "--set seed and --grid seed: give one of them"),
        (["nowhere.toml", "--seeds", "2"], "no job file 'nowhere.toml'"),
        (["quickstart", "--grid", "training.batch_size=0,8"], "training.batch_size = 0: expected a whole number >= 1"),
        (
            ["quickstart", "--grid", "training.optimizer=adam,adamm"],
            "optimizer = 'adamm': did you mean 'adam'?",
        ),
        (["quickstart", "--grid", "evaluation.metrics=['f1'],['maee']"], "metrics = 'maee': did you mean 'mae'?"),
        ([], "give a job file and --grid or --seeds, or --resume with a sweep's folder"),
        (["--resume", "runs/latest"], "sweep.toml is missing: give the folder of a sweep"),
        (["quickstart", "--resume", "runs/latest"], "--resume: give no job"),
        (["quickstart", "--seeds", "2", "--url", "ftp://x"], "ftp"),
        (
            ["quickstart", "--grid", "data.seed=1,2", "--from", "x.csv"],
            "--grid data.seed and --from: the data is split once",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_here("sweep", *arguments)
    assert reason in result.stderr
    assert not list(tmp_path.iterdir())


def test_compare_prints_a_table_on_standard_output_and_the_rest_beside_it(swept: Path) -> None:
    result = run_here("compare", str(swept))
    assert result.exit_code == 0
    cells = [line.split("\t") for line in result.stdout.splitlines()]
    assert cells == [
        ["batch_size", "accuracy", "best", "runs", "rounds", "time"],
        ["16", "0.7500", "0.7500", "1 of 2", "1", "2.00 s"],
        ["8", "0.3750 ±0.1768", "0.3750 ±0.1768", "2", "1", "2.00 s"],
        ["", "0.2500..0.5000", "0.2500..0.5000", "", "", ""],
    ]
    assert "failed: batch_size 16, seed 2: no quorum" in result.stderr


def test_compare_prints_json_and_plots(swept: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sizes.svg"
    result = run_here("compare", str(swept), "--json", "--plot", str(picture))
    got = json.loads(result.stdout)
    assert (got["metric"], got["better"], got["fields"]) == ("accuracy", "max", ["training.batch_size"])
    assert [each["last"]["n"] for each in got["combinations"]] == [1, 2]
    assert got["combinations"][0]["runs"][1]["reason"] == "no quorum"
    assert got["plot"] == str(picture)
    assert "target 0.9" in picture.read_text()


def test_plot_names_the_picture_after_the_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_run(tmp_path / "one", 0.5)
    monkeypatch.chdir(tmp_path)
    result = run_here("plot", str(folder))
    assert (result.stdout, (tmp_path / "accuracy.png").is_file()) == ("accuracy.png\n", True)
    as_json = json.loads(run_here("plot", str(folder), "--json", "--to", "a.svg").stdout)
    assert as_json == {"plot": "a.svg", "runs": [str(folder)]}


def test_plot_shows_the_control_characters_of_a_path(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "one", 0.5)
    result = run_here("plot", str(folder), "--to", str(tmp_path / "a\x1b.svg"))
    assert result.stdout.endswith("a\\u001b.svg\n")


def test_quiet_leaves_out_what_is_no_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def run(*_: Any, **__: Any) -> None:
        pass

    monkeypatch.setattr(whole_sweep, "settings", lambda *_, **__: (None, ("code: mine.py",)))
    monkeypatch.setattr(whole_sweep, "run", run)
    monkeypatch.chdir(tmp_path)
    assert "code: mine.py" in run_here("sweep", "quickstart", "--seeds", "2").stderr
    assert "code: mine.py" not in run_here("sweep", "quickstart", "--seeds", "2", "--quiet").stderr


def plan(**facts: Any) -> Plan:
    return sweep_plan.create(TABLE, grid.parse(["stop.rounds=1,2"]), 1, id="3fa9c1", created_s=1.0, **facts)


def test_a_sweep_goes_on_as_it_was_begun_but_for_what_is_given_again(tmp_path: Path) -> None:
    sweep_plan.write(plan(machine=Machine(at_once=3, workers=2, device="cuda", allow=("a",))), tmp_path / "sweep")
    (tmp_path / "latest").symlink_to("sweep")
    again = whole_sweep.resume(tmp_path / "latest", machine=Machine(workers=1), url="")
    assert again.plan.machine == Machine(at_once=3, workers=1, device="cuda", allow=("a",))
    assert again.folder == tmp_path / "sweep", "latest may soon be another"
    assert again.resume_hint == f"fedkeeper sweep --resume {tmp_path / 'sweep'}"


def test_a_sweep_on_a_running_system_needs_its_url_again_and_keeps_no_password(tmp_path: Path) -> None:
    url = "nats://user:secret@127.0.0.1:4222"
    begun = whole_sweep.begin(TABLE, grid.parse(["stop.rounds=1,2"]), 1, out=tmp_path, url=url, now_s=1.0, id="3fa9c1")
    sweep_plan.write(begun.plan, begun.folder)
    assert begun.folder.name == "1970-01-01-sweep-demo-3fa9c1"
    assert "secret" not in (begun.folder / "sweep.toml").read_text()
    with pytest.raises(BadOption, match=r"this sweep is on the broker .*127.0.0.1:4222: give its --url"):
        whole_sweep.resume(begun.folder, machine=Machine(), url="")
    with pytest.raises(BadOption, match=r"this sweep is on the broker .*:4222, not on nats://h:4222: give its --url"):
        whole_sweep.resume(begun.folder, machine=Machine(), url="nats://h")
    for same in ("nats://localhost", "nats://localhost:4222/"):
        assert whole_sweep.resume(begun.folder, machine=Machine(), url=same).url == same
    again = whole_sweep.resume(begun.folder, machine=Machine(), url=url)
    assert again.plan == begun.plan
    assert again.resume_hint == f"fedkeeper sweep --resume {begun.folder} --url 'nats://user:***@127.0.0.1:4222'"


def test_a_sweep_with_a_system_of_its_own_does_not_go_on_elsewhere(tmp_path: Path) -> None:
    sweep_plan.write(plan(), tmp_path / "my sweep")
    with pytest.raises(BadOption, match="this sweep has a broker of its own: leave out --url"):
        whole_sweep.resume(tmp_path / "my sweep", machine=Machine(), url="nats://h")
    again = whole_sweep.resume(tmp_path / "my sweep", machine=Machine(), url="")
    assert again.resume_hint == f"fedkeeper sweep --resume '{tmp_path}/my sweep'"


def test_the_store_of_a_sweep_that_has_nothing_left_to_run_goes(swept: Path) -> None:
    for folder in swept.glob("demo-*"):
        stored.write_ended(folder, Ended(folder.name, "completed"))
    again = whole_sweep.resume(swept, machine=Machine(folder=str(swept.parent)), url="")
    again.store.mkdir()
    asyncio.run(whole_sweep.run(again, None))
    assert not again.store.exists()
