"""Times and sizes can be read."""

import pytest

from fedkeeper.display import units


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 ms"), (0.0124, "12 ms"), (0.9994, "999 ms"), (1.0, "1.00 s"), (75.256, "75.26 s")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (45.4, "45 s"), (60, "1 min"), (754, "12 min 34 s"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_long_durations_have_two_units(seconds: float, text: str) -> None:
    assert units.format_long(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s ago"), (59.4, "59 s ago"), (90, "2 min ago"), (7200, "2 h ago"), (172_800, "2 d ago")],
)
def test_ages_have_one_unit(seconds: float, text: str) -> None:
    assert units.format_age(seconds) == text


@pytest.mark.parametrize(("mb", "text"), [(512, "512 MiB"), (1536, "1.5 GiB")])
def test_memory_has_a_unit(mb: int, text: str) -> None:
    assert units.format_memory(mb) == text


@pytest.mark.parametrize(("count", "text"), [(999, "999 B"), (1_590_040, "1.6 MB"), (3_000_000_000, "3.0 GB")])
def test_sizes_have_a_unit(count: int, text: str) -> None:
    assert units.format_size(count) == text
