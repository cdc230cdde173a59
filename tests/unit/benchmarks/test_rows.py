"""Rows of results: what is there is not made again, and tables show what the runs have come to."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import attacks, codecs, rows, strategies
from benchmarks.rows import Planned

PLAN = [Planned({"strategy": name}, {"name": name}) for name in ("fedavg", "median")]


def row(planned: Planned, **facts: Any) -> str:
    made = {"accuracy": [0.5, 0.9, 0.91], "seconds": 1.5, "error": "", "commit": "abc", **facts}
    return json.dumps({**planned.names, "job": planned.job, **made}) + "\n"


def test_a_file_that_is_missing_has_no_rows(tmp_path: Path) -> None:
    assert rows.found(PLAN, tmp_path / "none.jsonl") == []


def test_rows_are_found_in_the_order_of_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(row(PLAN[1]) + row(PLAN[0]))
    assert [each["strategy"] for each in rows.found(PLAN, file)] == ["fedavg", "median"]


def test_a_row_of_another_job_is_no_result(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(row(Planned({"strategy": "fedavg"}, {"name": "earlier"})))
    assert rows.found(PLAN, file) == []


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made = tmp_path / "rows.jsonl", list[str]()
    file.write_text(row(PLAN[0]))

    def make(planned: Planned, until_s: float | None) -> dict[str, Any]:
        del until_s
        made.append(planned.names["strategy"])
        return dict(json.loads(row(planned)))

    monkeypatch.setattr(rows, "_make", make)
    rows.add_missing(PLAN, file)
    rows.add_missing(PLAN, file)
    assert made == ["median"]
    assert len(rows.found(PLAN, file)) == 2


def test_no_run_is_begun_after_the_time(tmp_path: Path) -> None:
    rows.add_missing(PLAN, tmp_path / "rows.jsonl", until_s=0.0)
    assert rows.found(PLAN, tmp_path / "rows.jsonl") == []


@pytest.mark.parametrize(("target", "expected"), [(0.5, 1), (0.9, 2), (0.95, None)])
def test_rounds_to_a_target(target: float, expected: int | None) -> None:
    assert rows.rounds_to([0.5, 0.9, 0.89], target) == expected


def test_a_table_of_strategies_has_the_median_of_the_seeds() -> None:
    curves = {1: [0.5, 0.91, 0.96], 2: [0.92, 0.93, 0.94], 3: [0.1, 0.2, 0.9]}
    job = {"training": {"learning_rate": 0.3}, "strategy": {"name": "fedprox", "mu": 0.1}}
    found = [
        {"strategy": "fedprox", "seed": seed, "job": job, "accuracy": curve, "seconds": 3.0}
        for seed, curve in curves.items()
    ]
    line = strategies.results(found).splitlines()[2]
    assert line == "| fedprox | mu = 0.1 | 2 (2, 1, 3) | - (3, -, -) | - | 0.933 (0.900 to 0.960) | 1.00 |"


def test_a_table_of_attacks_has_the_points_lost_per_seed() -> None:
    def run(attack: str, number: int, accuracy: float, error: str = "") -> dict[str, Any]:
        names = {"aggregation": "mean", "attack": attack, "attackers": number, "seed": 1}
        return {**names, "accuracy": [0.1, accuracy - 0.01, accuracy, accuracy + 0.01], "error": error}

    found = [run("none", 0, 0.95), run("x 100", 1, 0.15), run("noise", 1, 0.9, "its loss is NaN")]
    line = attacks.results(found, 1).splitlines()[2]
    assert line == "| mean | 95.0 |  |  |  |  | 80.0 |  | 95.0 (1 of 1 jobs died) |"


def test_a_table_of_codecs_has_the_size_and_the_rounds_and_the_accuracy_of_each_seed() -> None:
    names = {"strategy": "fedavg", "update": "int8", "update_bytes": 40_961}
    found = [{**names, "accuracy": [0.5, end, end]} for end in (0.91, 0.96)]
    line = codecs.results(found).splitlines()[2]
    assert line == "| fedavg | int8 | 40,961 | 2 (2, 2) | - (-, 2) | - | 0.7900 (0.7733, 0.8067) |"


def test_every_planned_job_is_valid() -> None:
    from broker.messages import job_file

    runs = [*strategies.plan(list(strategies.SETTINGS)), *strategies.choice_plan("digits-shards")]
    runs += codecs.plan(list(codecs.SETTINGS))
    for planned in [*runs, *attacks.plan(attacks.SETTINGS, [1])]:
        job_file.from_dict(planned.job)
