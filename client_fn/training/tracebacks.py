"""Says what the user's code raised, and where, apart from the exception's text."""

import sysconfig
import traceback
from pathlib import Path
from typing import NamedTuple

_OURS = f"{Path(__file__).parent.parent}/"
_NOT_THE_USERS = ("torch/", "numpy/", "safetensors/")
_STANDARD = sysconfig.get_paths()["stdlib"]
_TEXT = 2000
"""Longest text of an exception that is passed on."""

_NAME = 200
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""What torch says where Python raises a MemoryError."""


class Cause(NamedTuple):
    """An exception of the user's code.

    Attributes:
        cause: name of its class.
        where: file and line in the user's code, such as `mine.py:12`; empty if it is not known.
        text: its text, which may hold data.
    """

    cause: str
    where: str
    text: str


def explain(exc: BaseException) -> Cause:
    """Return the class, the place and the text of an exception."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(exc.__traceback__)]
    if isinstance(exc, SyntaxError) and exc.filename:
        places.append((exc.filename, exc.lineno))
    places = [(file, line) for file, line in places if _is_of_the_user(file)]
    # Their own file tells more than the line of a library that it has called.
    own = [place for place in places if _below_site_packages(place[0]) is None]
    where = "".join(f"{_short(file)}:{line}" for file, line in (own or places)[-1:])
    text = _text(exc)
    # torch raises a RuntimeError where Python raises a MemoryError, and only its text would say what it is.
    cause = "MemoryError" if NO_MEMORY in text else type(exc).__name__
    return Cause(cause[:_NAME], where[-_NAME:], text)


def _text(exc: BaseException) -> str:
    try:
        return str(exc).encode(errors="replace").decode()[:_TEXT]
    except Exception:  # noqa: BLE001 (a user's exception may raise any error here)
        return "its text can't be made"


def _is_of_the_user(file: str) -> bool:
    package = _below_site_packages(file)
    if package is not None:
        return not package.startswith(_NOT_THE_USERS) and not file.startswith(_OURS)
    return not (file.startswith(("<frozen", _OURS, _STANDARD)))


def _below_site_packages(file: str) -> str | None:
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in file:
            return file.rpartition(folder)[2]
    return None


def _short(file: str) -> str:
    """Return a path without the folders that only this machine has."""
    return _below_site_packages(file) or Path(file).name
