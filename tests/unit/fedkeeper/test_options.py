"""What people write as options."""

import pytest

from fedkeeper.errors import BadOption
from fedkeeper.options import KEEP, KEEP_BYTES, retention


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("500000000", 500_000_000), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("2k", 2000)],
)
def test_a_size_is_a_number_of_bytes_with_or_without_a_unit(text: str, size: int) -> None:
    assert retention(1.0, 2, text).bytes == size


@pytest.mark.parametrize("text", ["", "many", "-1", "5 PB", "5 MBit"])
def test_another_text_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(BadOption, match="--keep-bytes"):
        retention(1.0, 2, text)


def test_the_size_that_is_shown_as_the_default_is_the_default() -> None:
    assert retention(KEEP.days, KEEP.jobs, KEEP_BYTES) == KEEP
