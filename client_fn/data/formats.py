"""The formats that data may have, and how a file's format is recognised."""

from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

FOLDER: Final = "folder"
SAFETENSORS: Final = "safetensors"

FILE: Final = "file"
"""A file that only a learner's own `data(source)` can read."""

_ENDINGS: Final = {
    ".safetensors": SAFETENSORS,
    ".npz": "npz",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}

_BEGINNINGS: Final = {b"PAR1": "parquet", b"PK\x03\x04": "npz"}
"""https://parquet.apache.org/docs/file-format/ and https://numpy.org/doc/stable/reference/generated/numpy.savez.html"""


def recognise(place: str, beginning: bytes) -> str:
    """Return the format of a file by its name's ending, else by its first bytes.

    A file without an ending is a safetensors file; one with an unknown ending is `FILE`.

    Args:
        place: path or URL.
        beginning: the file's first bytes, at least 9 if it has so many.
    """
    ending = PurePosixPath(urlsplit(place).path if "://" in place else place).suffix.lower()
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    known = _BEGINNINGS.get(beginning[:4])
    # A safetensors file begins with the header's size in 8 bytes, and the header is a JSON object.
    return known or (FILE if ending and beginning[8:9] != b"{" else SAFETENSORS)
