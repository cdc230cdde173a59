"""The grid of a sweep: fields of a job, the values that each takes, and every combination of them. Pure."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from broker.messages import job_file
from broker.support.decoding import UNREADABLE
from fedkeeper.display import field_values
from fedkeeper.errors import BadOption

MAX_RUNS: Final = 9999
"""Most runs of a sweep: a run's number is part of its job's id, which has 40 characters."""


class Axis(msgspec.Struct, frozen=True):
    """A field that a grid varies.

    Attributes:
        field: the job's field, such as `training.learning_rate`.
        values: its values, in the order in which they were given.
    """

    field: str
    values: tuple[Any, ...]


def parse(options: Iterable[str]) -> tuple[Axis, ...]:
    """Return the grid that options of the form `section.key=value,value` describe.

    Args:
        options: the options' texts; each value is in TOML, and a bare word is a text.

    Raises:
        BadOption: an option is malformed, has no value or one value twice, or names a field that another one has.
    """
    axes = tuple(_axis(option) for option in options)
    for one, other in itertools.combinations([axis.field for axis in axes], 2):
        if f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}."):
            raise BadOption(f"--grid {one} and --grid {other}: give all values of a field in one --grid")
    return axes


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the fields' values; the last field varies fastest."""
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.field: value for axis, value in zip(axes, values, strict=True)}


def describe(axes: Sequence[Axis], seeds: int) -> str:
    """Return how many runs a sweep has, such as `12 runs: 2 learning_rate x 2 batch_size x 3 seeds`.

    Args:
        axes: the grid.
        seeds: number of seeds; 1 is not said.
    """
    names = field_values.short_names([axis.field for axis in axes])
    factors = [(len(axis.values), names[axis.field]) for axis in axes]
    if seeds > 1 or not axes:
        factors.append((seeds, "seeds" if seeds > 1 else "seed"))
    number = count(axes, seeds)
    return f"{number} run{'' if number == 1 else 's'}: " + " x ".join(f"{factor} {name}" for factor, name in factors)


def count(axes: Sequence[Axis], seeds: int) -> int:
    """Return the number of runs.

    Args:
        axes: the grid.
        seeds: number of seeds.
    """
    number = seeds
    for axis in axes:
        number *= len(axis.values)
    return number


def _axis(option: str) -> Axis:
    field, eq, text = option.partition("=")
    if not eq or not all(part.strip() for part in field.split(".")):
        raise BadOption(f"--grid {option}: write it as section.key=value,value")
    values = _values(text)
    if not values or "" in [value for value in values if isinstance(value, str)]:
        raise BadOption(f"--grid {option}: a value is missing; write it as section.key=value,value")
    for value in values:
        if [_is_same(value, other) for other in values].count(True) > 1:
            raise BadOption(f"--grid {option}: {field_values.value_text(value)} is there twice")
    return Axis(field.strip(), tuple(values))


def _values(text: str) -> list[Any]:
    try:
        values: list[Any] = msgspec.toml.decode(f"v = [{text}]")["v"]
    except UNREADABLE:
        return [job_file.value_of(part) for part in text.split(",")]
    return values


def _is_same(one: object, other: object) -> bool:
    # Python takes True for 1.
    return one == other and isinstance(one, bool) == isinstance(other, bool)
