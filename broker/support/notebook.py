"""Shows things in notebooks: small tables in HTML that take the notebook's colours, dark or light.

Strangers write some of the texts, so every text is escaped, cleaned of control characters, and shortened.
"""

import html
from collections.abc import Iterable, Sequence

from broker.support import texts


def escaped(text: object) -> str:
    """Return a text as HTML shows it."""
    return html.escape(texts.cleaned(texts.shortened(str(text))))


def facts(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of facts about one thing.

    Args:
        title: what it is.
        rows: names and values; those with an empty value are left out.
    """
    shown = [(name, value) for name, value in rows if value not in ("", None)]
    cells = (f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>" for name, value in shown)
    return f"<table><caption>{escaped(title)}</caption>{''.join(cells)}</table>"


def listing(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of several things.

    Args:
        columns: the columns' names.
        rows: the cells of each row.
    """
    head = "".join(f"<th>{escaped(name)}</th>" for name in columns)
    body = ("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def text(content: str) -> str:
    """Return a text of several lines, with the spaces that it has."""
    return f"<pre>{html.escape(texts.cleaned(content))}</pre>"
