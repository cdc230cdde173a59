"""What a bar is, what was found, and whether it is met. Pure."""

import statistics
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.rows import table


@dataclass(frozen=True)
class Bar:
    """A limit for a number, or none: then the number is only shown.

    Attributes:
        name: what the command line and the rows call it.
        what: what is measured, for the table.
        unit: of the numbers: `s`, `ms`, `MB`, `%`, `/s` for steps per second, `x` for a multiple.
        limit: the number must not be above it; None: it has no limit of its own.
        ratio: the number must not be above this share of the peer's; None: it is not compared.
        is_more_better: whether the numbers must not be *below* limit and ratio.
    """

    name: str
    what: str
    unit: str = "s"
    limit: float | None = None
    ratio: float | None = None
    is_more_better: bool = False

    def describe(self) -> str:
        """Return the limits, for the table: what is not to be exceeded, or with `>=` what is to be reached."""
        parts = [] if self.ratio is None else [f"{self.ratio:g} x"]
        parts += [] if self.limit is None else [f"{self.limit:g} {self.unit}".rstrip()]
        return (">= " if self.is_more_better else "") + ", ".join(parts)

    def is_met(self, measured: float, peer: float | None) -> bool | None:
        """Say whether the bar is met; None: it has no limit, or its peer was not measured.

        Args:
            measured: our number.
            peer: the peer's.
        """
        checks = [] if self.limit is None else [(measured, self.limit)]
        if self.ratio is not None:
            if peer is None:
                return None
            checks.append((measured, self.ratio * peer))
        if not checks:
            return None
        return all((ours >= limit) if self.is_more_better else (ours <= limit) for ours, limit in checks)


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        values: our numbers, of which the median counts.
        peer: the peer's numbers; empty: there is no peer, or it was not measured.
        peer_name: what the peer is.
        facts: more about the measurement, such as the number of clients.
    """

    values: list[float]
    peer: list[float] = field(default_factory=list)
    peer_name: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class NotMeasured(Exception):
    """Raised where something can't be measured here, with the reason."""


Row = dict[str, Any]


def row(bar: Bar, found: Found) -> Row:
    """Return what was found as a row of a file.

    Args:
        bar: the bar.
        found: what was found for it.
    """
    measured = statistics.median(found.values)
    peer = statistics.median(found.peer) if found.peer else None
    return {
        "bar": bar.name,
        "measured": _rounded(measured),
        "least": _rounded(min(found.values)),
        "most": _rounded(max(found.values)),
        "count": len(found.values),
        "unit": bar.unit,
        "peer": _rounded(peer),
        "peer_name": found.peer_name if found.peer else "",
        "peer_count": len(found.peer),
        "ratio": _rounded(measured / peer) if peer else None,
        "met": bar.is_met(measured, peer),
        **found.facts,
    }


COLUMNS: Final = ("bar", "measured", "peer", "ratio", "limit", "met")


def line(bar: Bar, found: Row) -> list[str]:
    """Return the cells of a row of the table.

    Args:
        bar: the bar.
        found: its row.
    """
    met = {True: "yes", False: "NO", None: "-"}[found["met"]]
    ratio = "" if found["ratio"] is None else f"{found['ratio']:.3g}"
    return [
        bar.name,
        _number(found["measured"], bar.unit),
        _number(found["peer"], bar.unit),
        ratio,
        bar.describe(),
        met,
    ]


def as_table(lines: list[list[str]]) -> str:
    """Return lines of cells as a table in Markdown.

    Args:
        lines: what `line` has returned for each.
    """
    widths = [max(len(each[column]) for each in [list(COLUMNS), *lines]) for column in range(len(COLUMNS))]
    return table(
        [name.ljust(width) for name, width in zip(COLUMNS, widths, strict=True)],
        ([cell.ljust(width) for cell, width in zip(each, widths, strict=True)] for each in lines),
    )


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}".rstrip()


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
