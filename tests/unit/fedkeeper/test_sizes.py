"""Sizes for people."""

from pathlib import Path

import pytest

from fedkeeper import sizes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (2_340_000, "2.3 MB"),
        (10**10, "10.0 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert sizes.text(size) == text


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 10)
    (tmp_path / "below" / "two").write_bytes(b"x" * 5)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert sizes.of_folder(tmp_path) == 15
