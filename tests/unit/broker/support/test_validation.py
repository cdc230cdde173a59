"""Validation errors name the field, its value and what is allowed."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from broker.support import validation
from broker.support.validation import Invalid, Mistake


class Part(msgspec.Struct, frozen=True, kw_only=True):
    size: int = 1
    names: dict[str, str] = {}
    anything: Any = None


class File(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    first_part: Part = Part()
    maybe: Part | None = None
    by_name: dict[str, Part] = {}
    several: tuple[Part, ...] = ()


def mistake(raw: object) -> Mistake:
    with pytest.raises(Invalid) as refused:
        validation.strict(raw, File)
    return refused.value.mistake


def test_valid_data_is_converted() -> None:
    raw = {"first-part": {"size": 2, "names": {"any": "key"}, "anything": {"any": ["thing"]}}, "several": [{"size": 3}]}
    file = validation.strict(raw, File)
    assert (file.first_part.size, file.first_part.anything, file.several) == (2, {"any": ["thing"]}, (Part(size=3),))


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"first-part": {"sizes": 5}}, "first-part.sizes"),
        ({"maybe": {"sizes": 5}}, "maybe.sizes"),
        ({"by-name": {"a": {}, "b": {"sizes": 5}}}, "by-name.b.sizes"),
        ({"several": [{}, {"sizes": 5}]}, "several[1].sizes"),
    ],
)
def test_a_misspelt_key_is_found_at_any_depth(raw: dict[str, Any], field: str) -> None:
    allowed = "no such key; did you mean 'size'? known are size, names, anything"
    assert mistake(raw) == Mistake(field, 5, allowed)


def test_the_error_for_a_wrong_value_says_what_is_allowed() -> None:
    assert mistake({"first-part": {"size": "big"}}) == Mistake("first-part.size", "big", "expected a whole number")


@pytest.mark.parametrize("raw", [None, [], "text", {5: 1}, {"first-part": 3}, {"several": [1]}])
def test_data_of_another_shape_is_refused(raw: object) -> None:
    mistake(raw)


class Section(msgspec.Struct, frozen=True, kw_only=True):
    clients: Annotated[int, Meta(ge=1)] = 1
    share: Annotated[float, Meta(gt=0, le=1)] | int = 1.0
    mode: Literal["a", "b"] | None = None
    name: str = ""


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    cohort: Section = Section()


def mistake_in_whole(raw: dict[str, Any]) -> Mistake:
    with pytest.raises(Invalid) as refused:
        validation.strict(raw, Whole)
    return refused.value.mistake


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("clients", 0, "expected a whole number >= 1"),
        ("clients", "three", "expected a whole number >= 1"),
        ("share", "all", "expected a number > 0 and <= 1 or a whole number"),
        ("mode", "c", "expected one of 'a', 'b'"),
        ("name", 5, "expected a text"),
    ],
)
def test_the_error_names_field_value_and_allowed_values(field: str, value: object, allowed: str) -> None:
    error = mistake_in_whole({"cohort": {field: value}})
    assert error.field == f"cohort.{field}"
    assert error.value == value
    assert sorted(error.allowed.removeprefix("expected ").split(" or ")) == sorted(
        allowed.removeprefix("expected ").split(" or ")
    )


def test_the_error_names_a_section_that_is_no_table() -> None:
    assert mistake_in_whole({"cohort": 3}) == Mistake("cohort", 3, "expected a table")


def test_the_error_for_an_unknown_key_suggests_the_nearest_and_lists_all() -> None:
    error = mistake_in_whole({"cohort": {"client": 3}})
    assert (error.field, error.value) == ("cohort.client", 3)
    assert error.allowed == "no such key; did you mean 'clients'? known are clients, share, mode, name"


def test_the_error_for_an_unknown_section_lists_all() -> None:
    assert mistake_in_whole({"zzz": 1}) == Mistake("zzz", 1, "no such key; known are cohort")
