"""What is known of a file with wrong values: the others, and nothing that would need a wrong one."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from broker.support import partly_known
from broker.support.partly_known import UNKNOWN, NotKnown


class Part(msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="part"):
    size: int = 1
    sizes: tuple[int, ...] = ()


class Other(msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="other"):
    depth: int = 2


class File(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    first_part: Part = Part()
    any_part: Part | Other = Other()
    count: int = 3
    title: str
    several: tuple[Part, ...] = ()
    by_name: dict[str, Part] = {}


def test_wrong_fields_are_unknown_and_the_others_are_read() -> None:
    raw = {"first-part": {"size": "x", "sizes": [1, 2]}, "any-part": {"name": "other", "depth": 4.0}, "count": 7}
    file = partly_known.read(raw, File)
    assert (file.first_part.sizes, file.any_part, file.count) == ((1, 2), Other(depth=4), 7)
    assert [value is UNKNOWN for value in (file.first_part.size, file.title)] == [True, True]


def test_of_lists_and_named_tables_each_part_is_read() -> None:
    file = partly_known.read({"several": [{"size": "x"}, {"size": 4}], "by-name": {"a": {"size": []}, "b": 3}}, File)
    assert [file.several[0].size is UNKNOWN, file.several[1].size] == [True, 4]
    assert [file.by_name["a"].size is UNKNOWN, file.by_name["b"] is UNKNOWN] == [True, True]


def test_a_field_that_a_misspelt_one_means_is_unknown() -> None:
    file = partly_known.read({"first-part": {"siz": 3}, "any-part": {"name": "othr"}, "cuont": 2, "title": "t"}, File)
    assert [value is UNKNOWN for value in (file.first_part.size, file.any_part, file.count)] == [True, True, True]
    assert (file.first_part.sizes, file.title) == ((), "t")


@pytest.mark.parametrize("raw", [[], 3, "text", None])
def test_what_is_no_table_is_unknown(raw: object) -> None:
    assert partly_known.read(raw, File) is UNKNOWN


@pytest.mark.parametrize(
    "use",
    [
        bool,
        str,
        hash,
        len,
        iter,
        lambda value: value == 1,
        lambda value: value != 1,
        lambda value: value < 1,
        lambda value: value >= 1,
        lambda value: value + 1,
        lambda value: 2 * value,
        lambda value: value in {"a": 1},
        lambda value: value in ("a", "b"),
        lambda value: "a" in value,
        lambda value: value.attribute,
        lambda value: value[0],
        lambda value: f"{value}",
        round,
    ],
)
def test_who_needs_an_unknown_value_is_stopped(use: Callable[[Any], object]) -> None:
    with pytest.raises(NotKnown):
        use(UNKNOWN)
    assert "wrong" in repr(UNKNOWN)
