import pytest

from broker.support.filters import matches, overlap


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("fl.a", "fl.a", True),
        ("fl.a", "fl.b", False),
        ("fl.a", "fl.a.b", False),
        ("fl.a.b", "fl.a", False),
        ("fl.*", "fl.a", True),
        ("fl.*", "fl.a.b", False),
        ("fl.*", "fl.>", False),
        ("fl.*", "fl.*", True),
        ("fl.>", "fl.a.b", True),
        ("fl.>", "fl", False),
        ("fl.>", "fl.*.b", True),
        ("fl.*.b", "fl.a.b", True),
        ("fl.a.b", "fl.*.b", False),
    ],
)
def test_matches(pattern: str, topic: str, *, expected: bool) -> None:
    assert matches(pattern, topic) is expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("fl.a", "fl.a", True),
        ("fl.a", "fl.b", False),
        ("fl.*", "fl.b", True),
        ("fl.a.>", "fl.*.b", True),
        ("fl.a.>", "fl.b.>", False),
        ("fl.a.>", "fl.a", False),
        ("fl.a", "fl.a.b", False),
    ],
)
def test_overlap(first: str, second: str, *, expected: bool) -> None:
    assert overlap(first, second) is overlap(second, first) is expected
