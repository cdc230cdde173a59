"""Grids: what `--grid` means, and how many runs follow."""

import pytest

from fedkeeper.errors import BadOption
from fedkeeper.sweeps import grid
from fedkeeper.sweeps.grid import Axis


@pytest.mark.parametrize(
    ("option", "field", "values"),
    [
        ("training.learning_rate=0.1,0.01", "training.learning_rate", (0.1, 0.01)),
        ("training.optimizer=sgd,adam", "training.optimizer", ("sgd", "adam")),
        ('training.optimizer="sgd", "adam"', "training.optimizer", ("sgd", "adam")),
        ("training.optimizer=sgd,7", "training.optimizer", ("sgd", 7)),
        ("training.drop_last=true,false", "training.drop_last", (True, False)),
        (
            "training.schedule={name='cosine'},{name='step'}",
            "training.schedule",
            ({"name": "cosine"}, {"name": "step"}),
        ),
        ("model.personal=['a'],['a', 'b']", "model.personal", (["a"], ["a", "b"])),
        (" cohort.clients = 5", "cohort.clients", (5,)),
    ],
)
def test_values_are_toml_and_bare_words_are_texts(option: str, field: str, values: tuple[object, ...]) -> None:
    assert grid.parse([option]) == (Axis(field, values),)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["training.batch_size"], "--grid training.batch_size: write it as section.key=value,value"),
        (["=3"], "write it as section.key=value,value"),
        (["training.=3"], "write it as section.key=value,value"),
        (["training.batch_size="], "--grid training.batch_size=: a value is missing"),
        (["training.optimizer=sgd,,adam"], "a value is missing"),
        (["training.batch_size=8,16,8"], "--grid training.batch_size=8,16,8: 8 is there twice"),
        (["training.learning_rate=0.1,0.10"], "0.1 is there twice"),
        (["seed=1", "seed=2"], "--grid seed and --grid seed: give all values of a field in one --grid"),
        (["strategy={name='median'}", "strategy.name=fedavg"], "--grid strategy and --grid strategy.name"),
    ],
)
def test_an_option_that_makes_no_grid_is_refused(options: list[str], reason: str) -> None:
    with pytest.raises(BadOption) as refused:
        grid.parse(options)
    assert reason in str(refused.value)


def test_true_is_not_1() -> None:
    assert grid.parse(["model.args.x=true,1"])[0].values == (True, 1)


def test_the_last_field_varies_fastest() -> None:
    axes = (Axis("a.x", (1, 2)), Axis("b", ("u", "v")))
    assert list(grid.combinations(axes)) == [
        {"a.x": 1, "b": "u"},
        {"a.x": 1, "b": "v"},
        {"a.x": 2, "b": "u"},
        {"a.x": 2, "b": "v"},
    ]
    assert list(grid.combinations(())) == [{}]


@pytest.mark.parametrize(
    ("axes", "seeds", "text"),
    [
        (
            (Axis("training.learning_rate", (1, 2)), Axis("training.batch_size", (1, 2))),
            3,
            "12 runs: 2 learning_rate x 2 batch_size x 3 seeds",
        ),
        ((Axis("strategy.name", ("fedavg", "median")),), 1, "2 runs: 2 strategy"),
        ((), 5, "5 runs: 5 seeds"),
        ((Axis("training.batch_size", (8,)),), 1, "1 run: 1 batch_size"),
    ],
)
def test_the_number_of_runs_is_told_with_its_factors(axes: tuple[Axis, ...], seeds: int, text: str) -> None:
    assert grid.describe(axes, seeds) == text
