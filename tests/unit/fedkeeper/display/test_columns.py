"""Tables fit the screen: what matters least is left out or shortened first."""

import pytest
from rich.cells import cell_len

from fedkeeper.display.columns import Column, fit, shorten

COLUMNS = (Column("client", least=8), Column("runs", rank=1), Column("labels", rank=2, least=6))
ROWS = [("digits-shards2-c10-s0-007", "50", "data=digits-shards2-c10-s0")]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (57, [(0, 25), (1, 4), (2, 26)]),
        (50, [(0, 25), (1, 4), (2, 19)]),
        (37, [(0, 25), (1, 4), (2, 6)]),
        (30, [(0, 18), (1, 4), (2, 6)]),
        (18, [(0, 13), (1, 4)]),
        (10, [(0, 10)]),
        (3, [(0, 8)]),
    ],
)
def test_what_matters_least_is_shortened_first_and_left_out_first(width: int, expected: list[tuple[int, int]]) -> None:
    assert fit(COLUMNS, ROWS, width, 1) == expected


def test_columns_of_one_rank_go_together() -> None:
    columns = Column("a"), Column("bb", rank=1), Column("cc", rank=1)
    assert fit(columns, [], 6, 1) == [(0, 1)]
    assert fit(columns, [], 7, 1) == [(0, 1), (1, 2), (2, 2)]


def test_a_column_with_a_typical_width_does_not_go_when_a_value_grows() -> None:
    columns = Column("a"), Column("loss", rank=1, typical=8)
    assert [fit(columns, [("1", value)], 9, 1) for value in ("1.2", "1.23456")] == [[(0, 1)], [(0, 1)]]
    assert fit(columns, [("1", "1.2")], 10, 1) == [(0, 1), (1, 8)]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("digits-shards2-c10-s0-007", 25, "digits-shards2-c10-s0-007"),
        ("digits-shards2-c10-s0-007", 12, "digits…0-007"),
        ("abc", 2, "a…"),
        ("abc", 1, "…"),
        ("データセット", 6, "デ…ト"),
    ],
)
def test_the_middle_of_a_long_text_is_left_out(text: str, width: int, expected: str) -> None:
    assert shorten(text, width) == expected
    assert cell_len(shorten(text, width)) <= width
