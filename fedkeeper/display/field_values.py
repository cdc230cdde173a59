"""Fields of a job and their values as text, short enough for a table. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

CHOOSERS: Final = (".name", ".type")
"""Endings of fields that choose which other fields their table has."""

VALUE_SHOWN: Final = 24
"""Longer values are cut where they are shown. Characters."""


def short_names(fields: Sequence[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a name for each field: as many of its last parts as tell it from the others.

    A table's `name` or `type` chooses what the table is about, so it has the table's name: `strategy`.

    Args:
        fields: the fields.
        taken: names that mean something else.
    """
    used = set(taken)
    full = {field: field.rpartition(".")[0] if field.endswith(CHOOSERS) else field for field in fields}
    names = {}
    for field, name in full.items():
        parts = name.split(".")
        endings = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        unique = (each for each in endings if sum(f".{other}".endswith(f".{each}") for other in full.values()) == 1)
        names[field] = next((each for each in unique if each not in used), field)
    return names


def label(values: Mapping[str, Any]) -> str:
    """Return a combination in words, such as `learning_rate 0.1, batch_size 32`."""
    names = short_names(list(values))
    return ", ".join(f"{names[field]} {value_text(value)}" for field, value in values.items())


def value_text(value: Any) -> str:
    """Return a field's value as text; None is a field that is not set."""
    match value:
        case None:
            text = "-"
        case str():
            text = value
        case _:
            text = msgspec.json.encode(value).decode()
    return text if len(text) <= VALUE_SHOWN else f"{text[: VALUE_SHOWN - 1]}…"
