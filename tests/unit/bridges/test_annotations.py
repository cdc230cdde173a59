"""Which topics a function's annotation asks for."""

import pytest

from bridges.annotations import filters, function_for, is_filter
from broker.messages.function import Deployed


@pytest.mark.parametrize(
    ("annotation", "wanted"),
    [
        ("", ()),
        ("fl.tasks.x.c-1", ("fl.tasks.x.c-1",)),
        (" fl.tasks.x.* , fl/tasks/y/+ ,, fl/progress/#", ("fl.tasks.x.*", "fl.tasks.y.*", "fl.progress.>")),
        ("fl.tasks.x.c-1,fl/tasks/x/c-1", ("fl.tasks.x.c-1",)),
    ],
)
def test_an_annotation_is_split_and_both_kinds_of_wildcards_are_the_same(annotation: str, wanted: tuple[str]) -> None:
    assert filters(annotation) == wanted


@pytest.mark.parametrize("text", ["fl.progress.>", "fl.*.x", "*", "fl.a_b.C-d"])
def test_a_filter_is_one(text: str) -> None:
    assert is_filter(text)


@pytest.mark.parametrize("text", ["", ">", "fl.>.x", "fl..x", "fl.a b", "fl.x.", ".fl", "fl.a*", "fl.ä", "fl.x\n"])
def test_what_is_no_filter_is_none(text: str) -> None:
    assert not is_filter(text)


def asking(name: str, *wanted: str) -> Deployed:
    return Deployed(name=name, url=name, topics=wanted)


@pytest.mark.parametrize(
    ("wanted", "served"),
    [
        ("fl.tasks.openfaas.c-1", True),
        ("fl.tasks.*.c-1", True),
        ("fl.tasks.>", True),
        ("fl.tasks.openfaas.c-2", False),
        ("fl.tasks.openfaas", False),
        ("fl.>", False),
        ("*.*.*.*", False),
        (">", False),
    ],
)
def test_a_function_serves_the_clients_whose_tasks_it_asked_for(wanted: str, *, served: bool) -> None:
    found = function_for("fl.tasks.openfaas.c-1", [asking("a"), asking("b", "sensors.x", wanted)])
    assert (found is not None) is served


def test_of_several_functions_the_first_by_name_serves() -> None:
    found = function_for("fl.tasks.x.c", [asking("b", "fl.tasks.x.c"), asking("a", "fl.tasks.x.*")])
    assert found is not None
    assert found.name == "a"
