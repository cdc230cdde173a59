"""The topics of a function's annotation, and the function that serves a client."""

import pytest

from bridges.annotations import filters, function_for, is_filter
from broker.messages.function import Deployed


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("", ()),
        ("fl.tasks.x.c-1", ("fl.tasks.x.c-1",)),
        (" fl.tasks.x.* , fl/tasks/y/+ ,, fl/progress/#", ("fl.tasks.x.*", "fl.tasks.y.*", "fl.progress.>")),
        ("fl.tasks.x.c-1,fl/tasks/x/c-1", ("fl.tasks.x.c-1",)),
    ],
)
def test_an_annotation_holds_topic_filters_in_two_notations(annotation: str, expected: tuple[str]) -> None:
    assert filters(annotation) == expected


@pytest.mark.parametrize("text", ["fl.progress.>", "fl.*.x", "*", "fl.a_b.C-d"])
def test_a_valid_filter_is_accepted(text: str) -> None:
    assert is_filter(text)


@pytest.mark.parametrize("text", ["", ">", "fl.>.x", "fl..x", "fl.a b", "fl.x.", ".fl", "fl.a*", "fl.ä", "fl.x\n"])
def test_an_invalid_filter_is_refused(text: str) -> None:
    assert not is_filter(text)


def function(name: str, *topic_filters: str) -> Deployed:
    return Deployed(name=name, url=name, topics=topic_filters)


@pytest.mark.parametrize(
    ("topic_filter", "is_served"),
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
def test_a_function_serves_the_clients_whose_tasks_its_filters_match(topic_filter: str, *, is_served: bool) -> None:
    serving = function_for("fl.tasks.openfaas.c-1", [function("a"), function("b", "sensors.x", topic_filter)])
    assert (serving is not None) is is_served


def test_of_several_functions_the_first_by_url_serves() -> None:
    serving = function_for("fl.tasks.x.c", [function("b", "fl.tasks.x.c"), function("a", "fl.tasks.x.*")])
    assert serving is not None
    assert serving.name == "a"
