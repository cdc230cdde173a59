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
    return refused.value.mistakes[0]


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
    allowed = "no such key; did you mean 'size'?"
    assert mistake(raw) == Mistake(field, 5, allowed)


def test_the_error_for_a_wrong_value_says_what_is_allowed() -> None:
    assert mistake({"first-part": {"size": "big"}}) == Mistake("first-part.size", "big", "expected a whole number")


@pytest.mark.parametrize("raw", [None, [], "text", {5: 1}, {"first-part": 3}, {"several": [1]}])
def test_data_of_another_shape_is_refused(raw: object) -> None:
    mistake(raw)


class Shape(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    pass


class Dot(Shape, frozen=True, tag="dot"):
    pass


class Circle(Shape, frozen=True, tag="circle"):
    radius: Annotated[float, Meta(gt=0)] = 1.0
    part: Part = Part()


class Drawing(msgspec.Struct, frozen=True, kw_only=True):
    shape: Dot | Circle = Dot()
    maybe: Dot | Circle | None = None
    several: tuple[Dot | Circle, ...] = ()
    bits: dict[str, Annotated[int, Meta(ge=0, le=9)]] = {}
    by_name: dict[str, Part] = {}


def mistake_in_drawing(raw: object) -> Mistake:
    with pytest.raises(Invalid) as refused:
        validation.strict(raw, Drawing)
    return refused.value.mistakes[0]


def test_a_tag_chooses_the_type_of_a_table() -> None:
    raw = {"shape": {"kind": "circle", "radius": 2}, "maybe": {"kind": "dot"}, "several": [{"kind": "dot"}]}
    assert validation.strict(raw, Drawing) == Drawing(shape=Circle(radius=2.0), maybe=Dot(), several=(Dot(),))


KINDS = "expected one of 'dot', 'circle'"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"shape": {}}, Mistake("shape.kind", None, f"missing; {KINDS}")),
        ({"shape": {"radius": 1.0}}, Mistake("shape.kind", None, f"missing; {KINDS}")),
        ({"shape": {"kind": "ring"}}, Mistake("shape.kind", "ring", KINDS)),
        ({"shape": {"kind": None}}, Mistake("shape.kind", None, KINDS)),
        ({"shape": {"kind": ["dot"]}}, Mistake("shape.kind", ["dot"], KINDS)),
        (
            {"shape": {"kinds": "dot"}},
            Mistake("shape.kinds", "dot", "no such key; did you mean 'kind'?"),
        ),
        (
            {"shape": {"kind": "dot", "radius": 1.0}},
            Mistake("shape.radius", 1.0, "no such key; known for 'dot' are kind"),
        ),
        (
            {"shape": {"kind": "circle", "radios": 1.0}},
            Mistake("shape.radios", 1.0, "no such key; did you mean 'radius'?"),
        ),
        ({"shape": {"kind": "circle", "radius": 0}}, Mistake("shape.radius", 0, "expected a number > 0")),
        (
            {"shape": {"kind": "circle", "part": {"size": "x"}}},
            Mistake("shape.part.size", "x", "expected a whole number"),
        ),
        ({"maybe": {"kind": "circle", "radius": 0}}, Mistake("maybe.radius", 0, "expected a number > 0")),
        ({"several": [{"kind": "dot"}, {"kind": "ring"}]}, Mistake("several[1].kind", "ring", KINDS)),
        (
            {"several": [{"kind": "dot"}, {"kind": "circle", "radius": "x"}]},
            Mistake("several[1].radius", "x", "expected a number > 0"),
        ),
        ({"shape": "dot"}, Mistake("shape", "dot", "expected a table")),
        ({"shape": None}, Mistake("shape", None, "expected a table")),
    ],
)
def test_the_error_for_a_tagged_table_is_about_the_type_that_the_tag_chooses(raw: Any, expected: Mistake) -> None:
    assert mistake_in_drawing(raw) == expected


BITS = "expected a whole number >= 0 and <= 9"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"bits": {"a": 1, "b": 10}}, Mistake("bits.b", 10, BITS)),
        ({"bits": {"a.b": 10}}, Mistake("bits.a.b", 10, BITS)),
        ({"bits": {"a": 1, "*": 10, "c": 11}}, Mistake("bits.*", 10, BITS)),
        ({"bits": {"a": 1, "b": "x"}, "by_name": {"a": {"size": "x"}}}, Mistake("bits.b", "x", BITS)),
        (
            {"by_name": {"a": {}, "b": {"names": {"x": "y", "z": 1}}, "c": {"names": {"x": 1}}}},
            Mistake("by_name.b.names.z", 1, "expected a text"),
        ),
    ],
)
def test_the_error_names_the_key_of_a_wrong_value_in_a_table_with_any_keys(raw: Any, expected: Mistake) -> None:
    assert mistake_in_drawing(raw) == expected


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
    return refused.value.mistakes[0]


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
    assert error.allowed == "no such key; did you mean 'clients'?"


def test_the_error_for_an_unknown_section_lists_all() -> None:
    assert mistake_in_whole({"zzz": 1}) == Mistake("zzz", 1, "no such key; known are cohort")


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    rounds: Annotated[int, Meta(ge=1)] = 1
    maybe: int | None = None
    share: float = 0.5
    either: Annotated[float, Meta(gt=0)] | int = 1.0
    by_name: dict[str, Annotated[int, Meta(ge=0)]] = {}
    several: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    shape: Dot | Circle = Dot()
    anything: dict[str, Any] = {}


def test_a_number_without_a_fraction_is_a_whole_number_where_one_is_wanted() -> None:
    raw = {
        "rounds": 2.0,
        "maybe": 3.0,
        "share": 1,
        "either": 2.0,
        "by_name": {"a": 4.0},
        "several": [5.0],
        "parts": [{"size": 6.0}],
        "shape": {"kind": "circle", "radius": 1, "part": {"size": 7.0}},
        "anything": {"weight": [1.0, 5.0]},
    }
    numbers = validation.strict(raw, Numbers)
    assert repr(numbers) == repr(
        Numbers(
            rounds=2,
            maybe=3,
            share=1.0,
            either=2.0,
            by_name={"a": 4},
            several=(5,),
            parts=(Part(size=6),),
            shape=Circle(radius=1.0, part=Part(size=7)),
            anything={"weight": [1.0, 5.0]},
        )
    )
    for wrong in (2.5, float("inf"), float("nan"), "2", True):
        with pytest.raises(Invalid, match=r"rounds = .*: expected a whole number >= 1"):
            validation.strict({"rounds": wrong}, Numbers)


def test_all_mistakes_are_told_up_to_a_limit() -> None:
    raw = {"x": 1, "first-part": {"size": "a", "names": {"b": 1}}, "several": [{"size": "c"}, {"sise": 2}]}
    with pytest.raises(Invalid) as refused:
        validation.strict(raw, File)
    fields = ["x", "first-part.size", "first-part.names.b", "several[0].size", "several[1].sise"]
    assert [error.field for error in refused.value.mistakes] == fields
    with pytest.raises(Invalid) as refused:
        validation.strict({f"key-{number}": 0 for number in range(10_000)}, File)
    assert len(refused.value.mistakes) == validation.MOST
