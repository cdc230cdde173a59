"""IDX files: valid ones are parsed, others are refused."""

import gzip

import pytest

from client_fn.data import idx
from client_fn.errors import BadData
from tests.support.idx_files import IMAGES, SMALL


def test_decompression_stops_at_the_expected_size() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(BadData):
        idx.decompress("bomb", bomb, SMALL[1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x0d\1\0\0\0\1\0", "no IDX file of bytes"),
        (IMAGES[:9], "ends within its header"),
        (IMAGES[:-1], r"7 values for shape \(2, 2, 2\)"),
    ],
)
def test_content_that_is_not_an_idx_file_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BadData, match=reason):
        idx.parse("file", content)
