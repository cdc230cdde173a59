"""The paper's cells: their jobs, the paper's own numbers, which run is made next, and the grid on the screen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import strategies
from benchmarks.paper import __main__ as program
from benchmarks.paper import cells, cost, runs, summary, theirs
from benchmarks.paper.cells import Cell
from benchmarks.simulation import Outcome
from broker.messages import job_file
from broker.messages.register import ClientRecord
from broker.messages.strategy import FedAdam, Scaffold
from server import selection

CELL = Cell("nn", 5, "adam", 10, "reset", "fedavg", 0.9695)
DEVICE = "a processor"


def row(cell: Cell = CELL, seed: int = 1, *, rounds: int = 2, round_s: float = 3.5, **facts: Any) -> dict[str, Any]:
    """A row whose run has reached its target in the last round."""
    planned = cells.planned(cell, seed)
    outcome = {
        "accuracy": [0.5] * (rounds - 1) + [cell.target],
        "error": "",
        "refused": {},
        "seconds": rounds * round_s,
        "round_s": [round_s] * rounds,
        "device": DEVICE,
        "torch": "2",
        "model": "ab",
    }
    return {**planned.names, "job": planned.job, **outcome, **facts}


def write(path: Path, *found: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in found))
    return path


@pytest.fixture
def own_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {
        "quick": {"strategy": {"name": "fedadam", "rate": 0.01}},
        "scaffold": {"strategy": {"name": "scaffold"}, "training": {"optimizer": "sgd", "learning_rate": 0.1}},
    }
    monkeypatch.setattr(cells, "strategies", lambda: tables)


def test_there_are_60_cells_and_each_is_a_valid_job() -> None:
    assert len(set(cells.grid())) == 60
    # SGD has no state to carry.
    assert len(set(cells.all_cells())) >= 60 + 40
    for cell in cells.all_cells():
        job = job_file.from_dict(cells.planned(cell, 3).job)
        assert (job.model.type, job.training.local_epochs) == (cell.network, cell.epochs)
        assert (job.training.optimizer, job.training.optimizer_state) == (cell.optimizer, cell.state)
        assert (job.cohort.clients, job.seed, job.draw_seed) == (cell.clients, 3, 2)
        assert (job.data.key, job.training.batch_size) == ("mnist-shards2-c100-s0", 10)
        assert job.training.rate == {"sgd": 0.1, "adam": 1e-3, "nadam": 1e-3}[cell.optimizer]


@pytest.mark.parametrize("round_", [0, 1])
def test_the_cohorts_are_those_of_the_paper_s_log(round_: int) -> None:
    logged = theirs.numbers()["cohorts"]
    job = job_file.from_dict(cells.planned(replace(CELL, clients=logged["clients"]), 4).job)
    register = [ClientRecord(id=f"c-{number:03d}", platform="local") for number in range(logged["registered"])]
    chosen = selection.create(job).choose({}, register, round_ + 1)
    assert {int(client.id[2:]) for client in chosen} == set(logged["rounds"][str(round_)])


@pytest.mark.parametrize("network", cells.NETWORKS)
def test_a_target_is_the_paper_s_test_of_the_rounded_accuracy(network: str) -> None:
    target = cells.target_of(network)
    for right in range(10_001):
        has_reached = round(right / 10_000, 3) >= theirs.numbers()["targets"][network]
        assert (right / 10_000 >= target) == has_reached
        assert has_reached == (np.round(right / 10_000, 3) >= theirs.numbers()["targets"][network])


def test_the_paper_s_numbers_are_whole() -> None:
    numbers = theirs.numbers()
    assert len(numbers["cells"]) == 60
    assert {len(theirs.rounds(cell)) for cell in cells.grid()} == {2, 3}
    assert [cell.name for cell in cells.grid() if theirs.trap(cell)] == ["cnn-e10-adam-k10-reset"]
    assert theirs.rounds(replace(CELL, clients=100)) == [386, 103]
    # Rounds to 95 % as the text has them: it counts the rounds of three of its four logs from 0.
    first = {
        (each["network"], each["epochs"]): next(n for n, value in enumerate(each["accuracy"]) if (value or 0) >= 0.95)
        for each in numbers["curves"]
    }
    claims = {
        (network, int(epochs)): n
        for network, each in numbers["claims"]["rounds_to_95"].items()
        for epochs, n in each.items()
    }
    assert {key: number for key, number in first.items() if key != ("cnn", 5)} == {
        key: number for key, number in claims.items() if key != ("cnn", 5)
    }
    for network, claimed in numbers["claims"]["round_s"].items():
        for epochs in ("10",) if network == "nn" else ("5", "10"):
            seconds = [value for value in theirs.curve(network, int(epochs))["round_s"] if value is not None]
            assert sum(seconds) / len(seconds) == pytest.approx(claimed[epochs], abs=0.2)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [([], ""), ([236], "within"), ([181], "within"), ([180], "fewer"), ([300], "more"), ([200, None], "more")],
)
def test_within_is_the_paper_s_spread_and_15_percent(rounds: list[int | None], expected: str) -> None:
    assert theirs.verdict(CELL, rounds) == expected


def test_rows_of_another_job_do_not_count(tmp_path: Path) -> None:
    other = row()
    other["job"] = {**other["job"], "cohort": {**other["job"]["cohort"], "seed": 3}}
    found = cells.read(
        write(tmp_path / "rows.jsonl", row(), row(seed=2, error="lost"), other, row(seed=3, strategy="gone"))
    )
    assert [each["seed"] for each in found] == [1]
    assert cells.read(tmp_path / "none.jsonl") == []


def test_a_row_whose_rounds_have_missed_clients_does_not_count(tmp_path: Path) -> None:
    assert cells.read(write(tmp_path / "rows.jsonl", row(refused={"late": 1}))) == []


def test_of_two_rows_of_a_run_the_later_one_counts(tmp_path: Path) -> None:
    found = cells.read(write(tmp_path / "rows.jsonl", row(rounds=2), row(rounds=3)))
    assert summary.of(found)[CELL].rounds == (3,)


def test_one_run_of_every_cell_comes_before_a_second_one() -> None:
    wanted = [cell for cell in cells.grid() if cell.network == "nn"]
    order = cells.most_telling_first(wanted, [])
    assert [(cell.name, seed) for cell, seed in order[:3]] == [
        ("nn-e5-adam-k10-reset", 1),
        ("nn-e10-adam-k10-reset", 1),
        ("nn-e5-adam-k100-reset", 1),
    ]
    assert (len(order), {seed for _, seed in order[:30]}) == (150, {1})
    after = cells.most_telling_first(wanted, [row(), row(seed=3)])
    assert after[0] == (replace(CELL, epochs=10), 1)
    assert [seed for cell, seed in after if cell == CELL] == [2, 4, 5]


def test_the_strategies_have_the_settings_that_were_chosen() -> None:
    chosen = strategies.SETTINGS["mnist-shards"].strategies
    for name, own in cells.strategies().items():
        assert {**own["strategy"], **own["training"]} == chosen[name]


@pytest.mark.usefixtures("own_strategies")
def test_another_strategy_has_the_cells_of_its_optimizer() -> None:
    assert len(cells.grid(strategy="quick")) == 60
    assert {cell.optimizer for cell in cells.grid(strategy="scaffold")} == {"sgd"}
    job = job_file.from_dict(cells.planned(cells.grid(strategy="scaffold")[0], 1).job)
    assert isinstance(job.strategy, Scaffold)
    assert job.training.learning_rate == 0.1
    assert isinstance(job_file.from_dict(cells.planned(replace(CELL, strategy="quick"), 1).job).strategy, FedAdam)


@pytest.mark.usefixtures("own_strategies")
def test_the_best_other_strategy_stands_beside_the_paper_s() -> None:
    quick, kept = replace(CELL, strategy="quick"), replace(CELL, state="carry")
    found = summary.of([row(rounds=240), row(quick, rounds=110), row(quick, 2, rounds=120), row(kept, rounds=500)])
    assert summary.halved(found) == (1, 1)
    _, lines = summary.table(found)
    paper = ["nn", "5", "adam", "10", "236.0 [212, 260]", "180.2 to 299.0"]
    assert lines == [[*paper, "240", "within", "500", "115.0 [110, 120] (quick)"]]


@pytest.mark.usefixtures("own_strategies")
def test_a_strategy_that_sets_the_optimizer_stands_beside_all_optimizers_that_were_run() -> None:
    other = row(replace(CELL, optimizer="sgd", strategy="scaffold"), rounds=100)
    kept, sgd = replace(CELL, state="carry"), replace(CELL, optimizer="sgd")
    for found, beside in [([], {sgd}), ([row()], {sgd, CELL}), ([row(kept)], {sgd, CELL})]:
        summaries = summary.of([*found, other])
        assert {cell for cell in cells.grid() if summary.best(summaries, cell)} == beside
    assert summary.halved(summary.of([row(), other])) == (2, 2)
    # One that leaves the optimizer as it is does not.
    quick = row(replace(sgd, strategy="quick"), rounds=100)
    assert summary.best(summary.of([row(), quick]), CELL) is None


@pytest.mark.usefixtures("own_strategies")
def test_the_best_other_strategy_is_compared_with_our_fedavg_of_the_same_seeds() -> None:
    quick, other = replace(CELL, strategy="quick"), replace(CELL, clients=30)
    found = [row(quick, 2, rounds=110), row(quick, 3, rounds=110)]
    assert summary.halved_of_ours(summary.of(found)) == (0, 0)
    assert summary.halved_of_ours(summary.of([*found, row(seed=1, rounds=500)])) == (0, 0)
    assert summary.halved_of_ours(summary.of([*found, row(seed=1, rounds=500), row(seed=2, rounds=219)])) == (0, 1)
    more = [row(replace(other, strategy="quick"), rounds=9), row(other, accuracy=[0.5] * 500)]
    assert summary.halved_of_ours(summary.of([*found, row(seed=2, rounds=220), *more])) == (2, 2)


def test_runs_that_keep_the_optimizers_state_are_compared_with_those_that_do_not() -> None:
    kept = replace(CELL, state="carry")
    assert summary.within_by_state(summary.of([row(rounds=240), row(kept, rounds=240)])) == (1, 1, 1)
    assert summary.within_by_state(summary.of([row(accuracy=[0.5] * 500), row(kept, rounds=240)])) == (1, 0, 1)
    assert summary.within_by_state(summary.of([row(rounds=240), row(replace(kept, clients=30))])) == (0, 0, 0)


@pytest.mark.usefixtures("own_strategies")
def test_a_cell_whose_list_is_a_copy_is_compared_with_nothing() -> None:
    copied = next(cell for cell in cells.grid() if theirs.trap(cell))
    found = summary.of([row(copied, rounds=100), row(replace(copied, strategy="quick"), rounds=5)])
    assert found[copied].verdict == ""
    assert summary.halved(found) == (0, 0)
    assert summary.table(found)[1][0][5:8] == ["", "100", ""]


def test_a_run_that_has_not_reached_the_target_has_more_rounds() -> None:
    found = summary.of([row(rounds=240), row(seed=2, accuracy=[0.5] * 500)])[CELL]
    assert (found.mean, found.verdict, found.text, found.brief) == (None, "more", "- [240, >500]", ">500 (2)")


def test_a_run_that_was_ended_early_has_more_than_the_rounds_that_it_has_made() -> None:
    found = summary.of([row(accuracy=[0.5] * 299)])
    assert (found[CELL].verdict, found[CELL].text, found[CELL].brief) == ("more", ">299", ">299 (1)")
    kept = row(replace(CELL, state="carry"), accuracy=[0.5] * 299)
    assert summary.table(summary.of([row(), kept]))[1][0][8] == ">299"


def test_a_cost_is_learned_from_rows_of_the_same_device() -> None:
    assert cost.estimate_s(CELL, [], DEVICE) == 236 * 10 * 5 * cost.EPOCH_S["nn"]
    found = [row(rounds=200, round_s=5.0), row(seed=2, rounds=100, round_s=50.0, device="another")]
    assert cost.estimate_s(CELL, found, DEVICE) == pytest.approx(150 * 5.0)
    assert cost.estimate_s(CELL, found, "third") == pytest.approx(150 * 20.0)
    # Of another cell are known the paper's rounds alone; for an early target, a share of them.
    more = replace(CELL, clients=30, epochs=10)
    assert cost.estimate_s(more, found, DEVICE) == pytest.approx(97 * 30.0)
    early = replace(more, network="cnn", target=0.95)
    assert cost.estimate_s(early, found, DEVICE) == pytest.approx(59.5 * 12 / 56 * 300 * cost.EPOCH_S["cnn"])
    # A run that did not reach the target says more than the paper's; one that ended at a lower one does not.
    assert cost.estimate_s(CELL, [row(accuracy=[0.5] * 299, rounds=299, round_s=2.0)], DEVICE) == 598.0
    lower = row(replace(CELL, target=0.9), rounds=20, round_s=2.0)
    assert cost.estimate_s(CELL, [lower], DEVICE) == pytest.approx(236 * 2.0)
    # The round in which a run was stopped has no time.
    assert cost.estimate_s(CELL, [row(round_s=5.0, rounds=3) | {"round_s": [5.0, None, 5.0]}], DEVICE) == 15.0


def test_the_screen_has_all_cells_and_80_columns(tmp_path: Path) -> None:
    found = [
        row(replace(CELL, network="cnn", target=cells.target_of("cnn"), clients=100), seed, rounds=55)
        for seed in (1, 2)
    ]
    lines = program.status(write(tmp_path / "rows.jsonl", *found), tmp_path).splitlines()
    assert len(lines) == 62
    assert max(map(len, lines)) <= 80
    assert next(line for line in lines if line.startswith("cnn 5  adam  100")).split()[4:] == [
        "55.0",
        "[50-60]",
        "55.0",
        "(2)",
        "within",
    ]
    assert lines[-1].startswith("1 of 60 cells were run.")


class Made:
    """Stands for the runs: notes what is made, and whether each ends."""

    def __init__(self, path: Path, *, ends: bool = True) -> None:
        self.path, self.ends, self.names = path, ends, list[str]()
        self.fails = False
        self.job: dict[str, Any] = {}

    def __call__(self, begun: runs.Begun, path: Path, **_: object) -> bool:
        self.names.append(begun.folder.name.rpartition("-")[0])
        self.job = begun.job
        if self.fails:
            raise runs.RunFailed(f"{begun.folder.name}: it failed")
        if self.ends:
            with path.open("a") as file:
                file.write(
                    json.dumps(row(cells.cell_of(begun.planned.names), begun.planned.names["seed"], rounds=200)) + "\n"
                )
            (begun.folder / "begun.json").unlink()
            begun.folder.rmdir()
        return self.ends


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    fake, folder = Made(tmp_path / "rows.jsonl"), tmp_path / "begun"
    monkeypatch.setattr(runs, "make", fake)
    monkeypatch.setattr(runs, "device_name", lambda _: DEVICE)
    monkeypatch.setattr(runs, "begin", lambda planned, begin=runs.begin, **limit: begin(planned, folder, **limit))
    monkeypatch.setattr(runs, "unfinished", lambda _=folder, found=runs.unfinished: found(folder))
    return fake


def run(made: Made, *words: str) -> list[str]:
    made.names.clear()
    program.main(["run", "--rows", str(made.path), *words])
    return list(made.names)


def test_run_makes_the_most_telling_run_that_is_missing(made: Made) -> None:
    assert run(made, "--network", "nn") == ["nn-e5-adam-k10-reset-s1"]
    assert run(made, "--network", "nn") == ["nn-e10-adam-k10-reset-s1"]
    assert run(made, "--clients", "100", "--network", "cnn") == ["cnn-e5-adam-k100-reset-s1"]
    assert run(made, "--state", "carry", "--optimizer", "sgd", "--seed", "4") == ["nn-e5-sgd-k10-carry-s4"]
    assert run(made, "--to", "0.95", "--network", "cnn") == ["cnn-e5-adam-k10-reset-to0.95-s1"]


def test_a_run_may_end_when_its_verdict_is_decided(made: Made) -> None:
    run(made, "--network", "nn", "--decided")
    assert made.job == {**cells.planned(CELL, 1).job, "stop": {"rounds": 299, "target_accuracy": 0.9695}}
    most = theirs.most_within(CELL)
    assert [theirs.verdict(CELL, [most]), theirs.verdict(CELL, [most + 1])] == ["within", "more"]


def test_a_run_that_was_begun_with_a_limit_goes_on_with_it(tmp_path: Path) -> None:
    begun = runs.begin(cells.planned(CELL, 1), tmp_path, most_rounds=299)
    assert runs.unfinished(tmp_path) == [begun]
    assert runs.unfinished(tmp_path)[0].job["stop"]["rounds"] == 299
    # Its store is not that of the whole run.
    assert runs.begin(cells.planned(CELL, 1), tmp_path).folder != begun.folder


def test_run_takes_what_fits_into_the_time(made: Made) -> None:
    # Of the nn, only these are cheaper than five minutes, by what is known before any run.
    write(made.path, *(row(cell, seed, round_s=0.0) for cell in cells.grid()[:2] for seed in cells.SEEDS))
    first = run(made, "--minutes", "30", "--network", "nn", "--seed", "1")
    assert first[0] == "nn-e10-adam-k10-reset-s1"


def test_what_fits_into_no_time_is_begun_once_and_goes_on_with_resume(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    made.ends = False
    begun = run(made, "--minutes", "0.01", "--network", "cnn")
    assert len(begun) == 1
    assert "run --resume` goes on" in capsys.readouterr().out
    assert run(made, "--minutes", "0.01", "--network", "cnn") == []
    assert "no missing run fits" in capsys.readouterr().out
    assert begun[0] in program.status(made.path)
    made.ends = True
    assert run(made, "--resume") == begun
    assert run(made, "--resume") == []


def test_resume_goes_on_with_the_stopped_runs_that_are_asked_for(made: Made) -> None:
    made.ends = False
    first, second = run(made, "--network", "cnn"), run(made, "--network", "nn", "--state", "carry")
    third = run(made, "--network", "nn", "--to", "0.95", "--clients", "30")
    made.ends = True
    assert run(made, "--resume", "--network", "nn", "--state", "carry") == second
    assert run(made, "--resume", "--network", "nn", "--seed", "2") == []
    assert run(made, "--resume", "--to", "0.95") == third
    assert run(made, "--resume") == first


def test_a_run_whose_job_has_changed_does_not_go_on(tmp_path: Path) -> None:
    begun = runs.begin(cells.planned(CELL, 1), tmp_path)
    assert [each.planned for each in runs.unfinished(tmp_path)] == [begun.planned]
    other = replace(cells.planned(CELL, 2), job={"name": "earlier"})
    runs.begin(other, tmp_path)
    assert runs.unfinished(tmp_path) == [begun]
    assert [each.planned for each in runs.stale(tmp_path)] == [other]
    # Nor is it in the way of the same cell's run with the job of now.
    assert runs.begin(cells.planned(CELL, 2), tmp_path).can_go_on


def test_a_run_of_a_strategy_that_was_removed_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(cells.strategies()))
    begun = runs.begin(cells.planned(cells.grid(strategy=name)[0], 1), tmp_path)
    assert runs.unfinished(tmp_path) == [begun]
    monkeypatch.setattr(cells, "strategies", dict)
    assert runs.unfinished(tmp_path) == []
    lines = program.status(tmp_path / "rows.jsonl", tmp_path).splitlines()
    assert lines[-1] == f"can't go on, its job has changed: {begun.folder.name}"


def test_a_run_that_fails_ends_the_program(made: Made) -> None:
    made.fails = True
    with pytest.raises(SystemExit, match="it failed"):
        run(made, "--minutes", "60")
    assert len(made.names) == 1


@pytest.mark.parametrize(
    ("outcome", "flaw"),
    [
        (Outcome(error="lost", ended=True), "lost"),
        (Outcome(refused={"late": 7}, ended=True), r"updates were refused: 7 \(late\)"),
    ],
)
def test_a_failed_run_has_no_row_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, flaw: str
) -> None:
    async def failed(*_: object) -> Outcome:
        return outcome

    monkeypatch.setattr(runs, "_go_on", failed)
    begun = runs.begin(cells.planned(CELL, 1), tmp_path / "begun")
    with pytest.raises(runs.RunFailed, match=r"nn-e5-adam-k10-reset-s1-\w{8}: it failed, and has no row: " + flaw):
        runs.make(begun, tmp_path / "rows.jsonl", quiet=False)
    assert not (tmp_path / "rows.jsonl").exists()
    assert not begun.folder.exists()


def test_every_tenth_round_is_shown_and_the_time_ends_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    watch, outcome = runs.Watch(None), Outcome()
    for number in range(20):
        outcome.round_s.append(1.0)
        outcome.accuracy.append(number / 100)
        assert not watch(outcome)
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in shown] == ["  round 10: 0.0900", "  round 20: 0.1900"]
    assert runs.Watch(0.0)(outcome)
