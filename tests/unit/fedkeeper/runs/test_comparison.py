"""Comparisons: in which fields jobs differ, which runs belong together, means and spreads, and their table."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from broker.messages import job_file
from fedkeeper.display import columns
from fedkeeper.errors import BadOption
from fedkeeper.results import Comparison
from fedkeeper.runs import comparison, comparison_table, stored
from fedkeeper.runs.metric import Metric
from fedkeeper.runs.stored import Ended, StoredRun


def rows(*accuracies: float) -> list[dict[str, Any]]:
    return [
        {"round": number, "metrics": {"accuracy": value, "loss": 1 - value}, "round_s": 0.5, "model": f"{number:064x}"}
        for number, value in enumerate(accuracies, 1)
    ]


def run(name: str, *accuracies: float, ended: Ended | None = None, **tables: Any) -> StoredRun:
    job = job_file.from_dict(tables)
    table = stored.flattened(tomllib.loads(job_file.to_toml(job)))
    return StoredRun(Path("runs") / name, job, table, rows(*accuracies), ended)


def of_size(size: int, seed: int, *accuracies: float, ended: Ended | None = None) -> StoredRun:
    return run(f"r-{size}-{seed}", *accuracies, ended=ended, seed=seed, training={"batch_size": size})


@pytest.mark.parametrize(
    ("tables", "fields"),
    [
        ([{"training": {"batch_size": 8}}, {"training": {"batch_size": 16}}], ("training.batch_size",)),
        ([{"seed": 1}, {"seed": 2}], ()),
        ([{}, {"training": {"learning_rate": 0.5}}], ("training.learning_rate",)),
        ([{"strategy": {"name": "fedavg"}}, {"strategy": {"name": "fedavgm"}}], ("strategy.name",)),
        (
            [{"strategy": {"name": "fedavgm", "beta": beta}} for beta in (0.5, 0.9)] + [{}],
            ("strategy.name", "strategy.beta"),
        ),
        ([{}], ()),
    ],
)
def test_the_fields_in_which_jobs_differ(tables: list[dict[str, Any]], fields: tuple[str, ...]) -> None:
    assert comparison.differing_fields([run("one", **each) for each in tables]) == fields


def test_runs_that_differ_in_their_seed_belong_together_and_equal_ones_do_not() -> None:
    runs = [of_size(8, 1, 0.5), of_size(16, 1, 0.5), of_size(8, 2, 0.5)]
    found = comparison.groups(runs, ("training.batch_size",))
    assert [(group.values, len(group.runs)) for group in found] == [
        ({"training.batch_size": 8}, 2),
        ({"training.batch_size": 16}, 1),
    ]
    twice = comparison.groups([of_size(8, 1, 0.5), of_size(8, 1, 0.5)], ())
    assert [len(group.runs) for group in twice] == [1, 1]
    unknown = [StoredRun(Path(name), None, {}, rows(0.5)) for name in ("a", "b")]
    assert len(comparison.groups(unknown, ())) == 2


def test_mean_and_spread_are_those_of_the_completed_runs_and_the_best_comes_first() -> None:
    failed = Ended("r-8-3", "failed", "no quorum")
    compared = comparison.compare(
        [of_size(8, 1, 0.75, 0.25), of_size(8, 2, 0.5, 0.5), of_size(8, 3, 0.9, ended=failed), of_size(16, 1, 0.5)]
    )
    assert (compared.metric, compared.part, compared.better) == ("accuracy", "server", "max")
    first, second = compared.combinations
    assert (first.values, second.values) == ({"training.batch_size": 16}, {"training.batch_size": 8})
    assert (first.last, first.last and first.last.sd) == (first.best, None)
    assert second.last is not None
    assert second.best is not None
    assert (second.last.n, second.last.mean, second.last.min, second.last.max) == (2, 0.375, 0.25, 0.5)
    assert second.last.sd == pytest.approx(math.sqrt(2) * 0.125)
    assert (second.best.mean, second.best.max) == (0.625, 0.75)
    assert (second.rounds and second.rounds.mean, second.seconds and second.seconds.mean) == (2, 1.0)
    assert [(each.phase, each.reason) for each in second.runs] == [(None, ""), (None, ""), ("failed", "no quorum")]
    assert [(each.best_round, each.digest[-1]) for each in second.runs] == [(1, "2"), (1, "2"), (1, "1")]


def test_less_loss_is_better_and_what_nobody_ordered_is_not_sorted() -> None:
    runs = [of_size(8, 1, 0.25), of_size(16, 1, 0.75)]
    by_loss = comparison.compare(runs, metric="loss")
    assert [each.values["training.batch_size"] for each in by_loss.combinations] == [16, 8]
    for each, value in zip(runs, (1.0, 2.0), strict=True):
        each.rows[0]["metrics"]["mine"] = value
    unordered = comparison.compare(runs, metric="mine")
    assert unordered.better is None
    assert [each.values["training.batch_size"] for each in unordered.combinations] == [8, 16]
    assert [each.best for each in unordered.combinations] == [None, None]
    assert comparison_table.notes(unordered) == [
        "not sorted, and without a best value: evaluation.directions says whether more mine is better"
    ]


def test_the_metric_that_decides_in_the_job_is_compared() -> None:
    own = run("a", 0.5, evaluation={"metrics": ["accuracy", "f1"], "best": "f1"})
    own.rows[0]["metrics"]["f1"] = 0.25
    assert comparison.compare([own]).metric == "f1"


def test_a_metric_that_was_not_measured_is_refused() -> None:
    with pytest.raises(BadOption, match=r"--metric auroc: not measured in these runs; they have accuracy, loss"):
        comparison.compare([of_size(8, 1, 0.5)], metric="auroc")


def test_a_value_that_is_not_finite_counts_nowhere() -> None:
    lost = of_size(8, 1, 0.5, 0.75)
    lost.rows[1]["metrics"]["accuracy"] = None
    (combination,) = comparison.compare([lost]).combinations
    assert combination.last is not None
    assert combination.last.mean == 0.5


def test_a_curve_has_mean_and_spread_of_the_runs_that_reached_the_round() -> None:
    points = comparison.curve([of_size(8, 1, 0.25, 0.5), of_size(8, 2, 0.75)], Metric("accuracy", "server"))
    assert [(point.round, point.mean) for point in points] == [(1, 0.5), (2, 0.5)]
    assert [point.sd for point in points] == [pytest.approx(math.sqrt(2) * 0.25), 0.0]


def test_the_table_of_several_seeds_fits_80_columns() -> None:
    failed = Ended("r", "failed", "no quorum")
    runs = [of_size(size, seed, 0.5, 0.25 * seed) for size in (8, 16) for seed in (1, 2)]
    lost = [of_size(32, seed, ended=failed) for seed in (1, 2)]
    compared = comparison.compare([*runs, of_size(16, 3, ended=failed), *lost])
    heads, lines = comparison_table.table(compared)
    assert [head.name for head in heads] == ["batch_size", "accuracy", "best", "runs", "rounds", "time"]
    assert lines == [
        ["8", "0.3750 ±0.1768", "0.5000 ±0.0000", "2", "2", "1.00 s"],
        ["", "0.2500..0.5000", "0.5000..0.5000", "", "", ""],
        ["16", "0.3750 ±0.1768", "0.5000 ±0.0000", "2 of 3", "2", "1.00 s"],
        ["", "0.2500..0.5000", "0.5000..0.5000", "", "", ""],
        ["32", "failed", "failed", "0 of 2", "", ""],
    ]
    assert shown(compared, 80) == shown(compared, 1000), "all of it fits"
    assert comparison_table.notes(compared) == [
        "failed: batch_size 16, seed 3: no quorum",
        "failed: batch_size 32, seeds 1, 2: no quorum",
    ]


def test_the_table_of_single_runs_has_their_digests_and_leaves_out_what_does_not_fit() -> None:
    compared = comparison.compare([of_size(8, 1, 0.5), of_size(16, 2, 0.25)])
    _, lines = comparison_table.table(compared)
    assert lines[0] == ["r-8-1", "8", "1", "0.5000", "0.5000 (1)", "1", "500 ms", "0" * 12]
    assert shown(compared, 100) == ["run", "batch_size", "seed", "accuracy", "best", "rounds", "time", "digest"]
    assert shown(compared, 60) == ["batch_size", "seed", "accuracy", "best", "rounds", "digest"]
    assert shown(compared, 10) == ["batch_size", "seed", "accuracy"]


def test_runs_that_do_not_differ_have_their_names() -> None:
    compared = comparison.compare([of_size(8, 1, 0.5), of_size(8, 1, 0.5)])
    assert shown(compared, 10) == ["run", "accuracy"]
    seeds = comparison.compare([of_size(8, 1, 0.5), of_size(8, 2, 0.5)])
    assert len(comparison_table.table(seeds)[1]) == 2, "the mean, and its ends"
    assert [line[1] for line in comparison_table.table(seeds, each=True)[1]] == ["1", "2"]


def shown(compared: Comparison, width: int) -> list[str]:
    """The columns that a screen of that width has."""
    heads, lines = comparison_table.table(compared)
    return [heads[index].name for index, _ in columns.fit(heads, lines, width, 2)]
