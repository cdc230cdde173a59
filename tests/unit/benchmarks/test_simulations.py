"""The simulated benchmarks work: a few rounds of some strategies, forms of updates and attacks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import attacks, codecs, rows, simulation, strategies
from benchmarks.rows import Planned
from broker.messages import job_file

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


def test_codecs(tmp_path: Path) -> None:
    first = [each for each in codecs.plan(["digits"]) if each.names["seed"] == 1 and each.names["strategy"] == "fedavg"]
    runs, file = shortened(first, rounds=2), tmp_path / "rows.jsonl"
    rows.add_missing(runs, file)
    delta, bf16, fp16, int8 = rows.found(runs, file)
    assert [row["error"] for row in (delta, bf16, fp16, int8)] == [""] * 4
    assert delta["update_bytes"] > 1.9 * max(bf16["update_bytes"], fp16["update_bytes"])
    assert bf16["update_bytes"] > 1.8 * int8["update_bytes"]
    assert len({row["model"] for row in (delta, bf16, fp16, int8)}) == 4
    assert len(codecs.results([delta, bf16, fp16, int8]).splitlines()) == 6
    costs = codecs.costs(1)
    assert costs["delta"].size > 1.9 * costs["bf16"].size > 3.7 * costs["int8"].size
    assert len(codecs.cost_table(costs).splitlines()) == 6


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


async def test_clients_may_be_trained_in_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, do = list[int](), simulation.OneProcess.do

    async def counted(self: simulation.OneProcess, names: Any, order: Any, inputs: Any, **options: Any) -> Any:
        sizes.append(len(getattr(order, "members", ())))
        return await do(self, names, order, inputs, **options)

    monkeypatch.setattr(simulation.OneProcess, "do", counted)
    setting = strategies.SETTINGS["digits-shards"]
    job = job_file.from_dict({**strategies.job_of(setting, {"name": "fedavg"}, 1), "stop": {"rounds": 2}})
    async with simulation.open_simulation(together=4) as system:
        outcome = await system.run(job)
    assert (len(outcome.accuracy), outcome.error) == (2, "")
    assert max(sizes) > 1
