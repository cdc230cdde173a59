"""Reads TOML files whose unknown keys and wrong values are mistakes."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from broker.errors import UNREADABLE
from broker.support import validation
from fedkeeper.errors import BadDeploymentFile

T = TypeVar("T", bound=msgspec.Struct)


def read(path: Path, schema: type[T]) -> T:
    """What a file says.

    Args:
        path: of the file.
        schema: what it is read as; unknown keys are refused.

    Raises:
        BadDeploymentFile: it can't be read, or a field of it can't be.
    """
    return converted(table(path), schema)


def table(path: Path) -> dict[str, Any]:
    """A file's content, unchecked.

    Raises:
        BadDeploymentFile: it can't be read.
    """
    try:
        raw: dict[str, Any] = msgspec.toml.decode(path.read_text(encoding="utf-8"))
    except (OSError, *UNREADABLE) as exc:
        raise BadDeploymentFile("", path.name, f"no TOML file that can be read: {exc}") from exc
    return raw


def converted(raw: dict[str, Any], schema: type[T]) -> T:
    """A table as a struct.

    Args:
        raw: of `table`.
        schema: what it is read as; unknown keys are refused.

    Raises:
        BadDeploymentFile: a field of it can't be; says its value, and what is allowed.
    """
    try:
        return validation.strict(raw, schema)
    except validation.Invalid as exc:
        raise BadDeploymentFile(*exc.mistake) from exc
