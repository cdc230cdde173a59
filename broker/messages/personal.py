"""Where a client keeps its personal layers, as its register entry and its tasks say."""

from typing import Final

FOLDER: Final = "state"
"""Name of the folder beside a client's data."""

_READ_ONLY: Final = ("http://", "https://", "data:")


def folder_of(data_loc: str, state_loc: str) -> str:
    """Return the folder or URL below which a client keeps its personal layers; empty: there is no such place.

    Args:
        data_loc: path or URL of the client's data; empty: it has none.
        state_loc: what the register says of the place; empty: beside the data.
    """
    folder = state_loc.rstrip("/") or _beside(data_loc.rstrip("/"))
    return "" if folder.startswith(_READ_ONLY) else folder


def _beside(data_loc: str) -> str:
    if not data_loc:
        return ""
    parent, slash, _ = data_loc.rpartition("/")
    return f"{parent}/{FOLDER}" if slash else FOLDER
