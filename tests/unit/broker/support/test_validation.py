"""What people are told of a field that msgspec refuses."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from broker.support import validation
from broker.support.validation import Mistake


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    clients: Annotated[int, Meta(ge=1)] = 1
    share: Annotated[float, Meta(gt=0, le=1)] | int = 1.0
    mode: Literal["a", "b"] | None = None
    name: str = ""


class Whole(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    cohort: Section = Section()


def mistake(raw: dict[str, Any]) -> Mistake:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(raw, Whole)
    return validation.explained(refused.value, raw, Whole)


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
def test_a_field_is_named_with_its_value_and_what_is_allowed(field: str, value: object, allowed: str) -> None:
    found = mistake({"cohort": {field: value}})
    assert found.field == f"cohort.{field}"
    assert found.value == value
    assert sorted(found.allowed.removeprefix("expected ").split(" or ")) == sorted(
        allowed.removeprefix("expected ").split(" or ")
    )


def test_a_section_that_is_no_table_is_named() -> None:
    assert mistake({"cohort": 3}) == Mistake("cohort", 3, "expected a table")


def test_an_unknown_key_is_answered_with_the_nearest_and_all_known_ones() -> None:
    found = mistake({"cohort": {"client": 3}})
    assert (found.field, found.value) == ("cohort.client", 3)
    assert found.allowed == "no such key; did you mean 'clients'? known are clients, share, mode, name"


def test_an_unknown_section_without_a_near_one_lists_those_there_are() -> None:
    assert mistake({"zzz": 1}) == Mistake("zzz", 1, "no such key; known are cohort")
