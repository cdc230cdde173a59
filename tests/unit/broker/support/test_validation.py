"""What people write is checked to the last key: the field, its value, and the key that was meant."""

from typing import Any

import msgspec
import pytest

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


def test_what_is_right_is_converted() -> None:
    raw = {"first-part": {"size": 2, "names": {"any": "key"}, "anything": {"any": ["thing"]}}, "several": [{"size": 3}]}
    got = validation.strict(raw, File)
    assert (got.first_part.size, got.first_part.anything, got.several) == (2, {"any": ["thing"]}, (Part(size=3),))


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"first-part": {"sizes": 5}}, "first-part.sizes"),
        ({"maybe": {"sizes": 5}}, "maybe.sizes"),
        ({"by-name": {"a": {}, "b": {"sizes": 5}}}, "by-name.b.sizes"),
        ({"several": [{}, {"sizes": 5}]}, "several[1].sizes"),
    ],
)
def test_a_misspelt_key_is_found_wherever_it_is(raw: dict[str, Any], field: str) -> None:
    allowed = "no such key; did you mean 'size'? known are size, names, anything"
    assert mistake(raw) == Mistake(field, 5, allowed)


def test_a_wrong_value_is_told_with_what_is_allowed() -> None:
    assert mistake({"first-part": {"size": "big"}}) == Mistake("first-part.size", "big", "expected a whole number")


@pytest.mark.parametrize("raw", [None, [], "text", {5: 1}, {"first-part": 3}, {"several": [1]}])
def test_what_has_another_shape_is_refused(raw: object) -> None:
    mistake(raw)
