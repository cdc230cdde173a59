"""The simulated benchmarks work: a few rounds of some strategies, and of some attacks."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks import attacks, rows, strategies
from benchmarks.rows import Planned

pytestmark = [pytest.mark.slow, pytest.mark.torch]


def shortened(plan: Iterable[Planned], rounds: int) -> list[Planned]:
    return [Planned(each.names, {**each.job, "stop": {"rounds": rounds}}, each.behaviour) for each in plan]


def test_strategies(tmp_path: Path) -> None:
    setting = strategies.SETTINGS["digits-shards"]
    tables = {"fedavg": {"name": "fedavg"}, "scaffold": {"name": "scaffold"}}
    runs = shortened(
        (
            Planned({"setting": "digits", "strategy": name, "seed": 1}, strategies.job_of(setting, table, 1))
            for name, table in tables.items()
        ),
        rounds=2,
    )
    runs += shortened(strategies.choice_plan("digits-shards")[:1], rounds=2)
    file = tmp_path / "rows.jsonl"
    rows.add_missing(runs, file)
    fedavg, scaffold, choice = rows.found(runs, file)
    assert [len(row["accuracy"]) for row in (fedavg, scaffold, choice)] == [2, 2, 2]
    assert fedavg["model"] != scaffold["model"]  # the client half was applied
    assert len(strategies.results([fedavg, scaffold]).splitlines()) == 4
    assert "*" in strategies.choices([choice])
    strategies.draw([fedavg, scaffold], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_attacks(tmp_path: Path) -> None:
    wanted = {("mean", "none"), ("mean", "label flip"), ("mean", "x 100"), ("mean", "noise"), ("median", "x 100")}
    plan = [
        each
        for each in attacks.plan(["digits-iid"], [1])
        if (each.names["aggregation"], each.names["attack"]) in wanted and each.names["attackers"] < 2
    ]
    runs, file = shortened(plan, rounds=3), tmp_path / "rows.jsonl"
    rows.add_missing(runs, file)
    found = {(row["aggregation"], row["attack"]): row for row in rows.found(runs, file)}
    honest = attacks.final(found["mean", "none"])
    assert found["mean", "label flip"]["model"] != found["mean", "none"]["model"]
    assert attacks.final(found["mean", "x 100"]) < honest - 0.2
    assert attacks.final(found["mean", "noise"]) < honest - 0.2
    assert attacks.final(found["median", "x 100"]) > attacks.final(found["mean", "x 100"])
    assert attacks.results(list(found.values()), 1)
