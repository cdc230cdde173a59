"""Which columns of a table fit the screen, and how wide they are. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len

ELLIPSIS: Final = "…"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        rank: columns with a higher rank are left out first where the screen is too narrow; equal ranks go together.
        least: its cells may be shortened to this width; 0: they are never shortened.
        typical: its width is taken to be at least this, so that columns do not come and go with the values.
        is_number: whether its cells are at the right.
    """

    name: str
    rank: int = 0
    least: int = 0
    typical: int = 0
    is_number: bool = False


def fit(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int, gap: int) -> list[tuple[int, int]]:
    """Return the columns that fit, as pairs of index and width, in their order. Those of the lowest rank always do.

    Args:
        columns: all columns.
        rows: the cells of each row.
        width: width of the screen.
        gap: spaces between two columns.
    """
    wanted = [max(cell_len(column.name), column.typical) for column in columns]
    for row in rows:
        wanted = [max(most, cell_len(cell)) for most, cell in zip(wanted, row, strict=True)]
    least = [
        min(most, max(column.least, cell_len(column.name))) if column.least else most
        for column, most in zip(columns, wanted, strict=True)
    ]
    chosen: list[int] = []
    for rank in sorted({column.rank for column in columns}):
        more = [index for index, column in enumerate(columns) if column.rank == rank]
        if chosen and _total([least[index] for index in (*chosen, *more)], gap) > width:
            break
        chosen += more
    chosen.sort()
    widths = {index: least[index] for index in chosen}
    room = width - _total(list(widths.values()), gap)
    # What is most important gets its full width first.
    for index in sorted(chosen, key=lambda index: (columns[index].rank, index)):
        more_width = max(0, min(room, wanted[index] - widths[index]))
        widths[index] += more_width
        room -= more_width
    return [(index, widths[index]) for index in chosen]


def shorten(text: str, width: int) -> str:
    """Return a text of at most that width: of a longer one, the middle is left out.

    Args:
        text: any text without control characters.
        width: the width in columns of the terminal.
    """
    if cell_len(text) <= width:
        return text
    head, tail = "", ""
    # The ends of ids, paths and addresses tell them apart.
    while True:
        side = text[len(head)] if len(head) <= len(tail) else text[-1 - len(tail)]
        if cell_len(head + tail + side) > width - 1:
            return f"{head}{ELLIPSIS}{tail}"
        if len(head) <= len(tail):
            head += side
        else:
            tail = side + tail


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * max(0, len(widths) - 1)
