"""The terminal: consoles that show foreign text safely, sentences for a person, and lists that fit the screen."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from broker.messages import codec
from broker.support import texts
from fedkeeper.display import columns
from fedkeeper.display.columns import Column

GAP: Final = 2
"""Spaces between two columns of a list."""


class SafeConsole(Console):
    """A console that shows control characters instead of obeying them.

    What it prints was partly written by strangers: reasons, labels, names of metrics, addresses.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable. rich's own control codes are not part of their text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(texts.cleaned(segment.text), segment.style)


def console() -> Console:
    """Return a console on standard error, where progress is shown. Standard output has only results."""
    return SafeConsole(stderr=True, highlight=False)


def say(text: str, *, style: str = "") -> None:
    """Print a sentence on standard error, not wrapped, so that addresses and commands in it can be copied.

    Args:
        text: the sentence; nothing in it is markup.
        style: a style of rich.
    """
    console().print(text, style=style or None, markup=False, soft_wrap=True)


def echo(text: str) -> None:
    """Print a line on standard output, with its control characters shown."""
    typer.echo(texts.cleaned(text))


def print_json(result: Any) -> None:
    """Print a result, a struct of `fedkeeper.results`, on standard output as one line of JSON."""
    echo(codec.encode(result).decode())


def show(result: Any, text: str, *, as_json: bool) -> None:
    """Print a result on standard output.

    Args:
        result: the result, a struct of `fedkeeper.results`.
        text: the result for people.
        as_json: whether it is printed as JSON.
    """
    if as_json:
        print_json(result)
    else:
        echo(text)


def print_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table on standard output, without cutting any cell.

    Where standard output is no terminal, a tab separates the cells, and nothing is padded.

    Args:
        heads: the columns' names.
        rows: one tuple of cells per row.
    """
    width = list_width()
    if not width:
        _print_separated([heads, *rows])
        return
    table = Table(box=None, header_style="dim")
    for name in heads:
        table.add_column(name, overflow="fold")
    for row in rows:
        # Cleaned before their width is measured, and not as str, in which rich reads square brackets as markup.
        table.add_row(*(Text(texts.cleaned(cell)) for cell in row))
    SafeConsole(highlight=False, width=width).print(table)


def print_list(heads: Sequence[Column], rows: Sequence[Sequence[str]], *, notes: Sequence[str] = ()) -> None:
    """Print a table on standard output: a line for each row, with the columns and cells that the screen has room for.

    Where standard output is no terminal, nothing is left out or shortened: the same as `print_table` prints there.

    Args:
        heads: the columns.
        rows: the cells of each row.
        notes: for each row a sentence that stands below it on a terminal, or an empty text; none: no row has one.
    """
    width = list_width()
    if not width:
        _print_separated([[column.name for column in heads], *rows])
        return
    # Cleaned before their width is measured.
    cells = [[texts.cleaned(cell, keep="") for cell in row] for row in rows]
    shown = columns.fit(heads, cells, width, GAP)
    console = SafeConsole(highlight=False)
    for number, row in enumerate([[column.name for column in heads], *cells]):
        line = (" " * GAP).join(_cell(heads[index], row[index], size) for index, size in shown).rstrip()
        console.print(Text(line, style="" if number else "dim"), soft_wrap=True)
        if number and notes and (note := texts.cleaned(notes[number - 1], keep="")):
            console.print(Text(f"  {columns.shorten(note, width - 2)}"), soft_wrap=True)


def list_width() -> int:
    """Return the width of the terminal on standard output in columns; 0: it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _print_separated(rows: Iterable[Sequence[str]]) -> None:
    r"""Print rows with a tab between two cells. Where a cell has a tab itself, it is shown as `\u0009`."""
    for row in rows:
        echo("\t".join(texts.cleaned(cell, keep="") for cell in row))


def _cell(column: Column, text: str, width: int) -> str:
    text = columns.shorten(text, width)
    padding = " " * (width - cell_len(text))
    return padding + text if column.is_number else text + padding
