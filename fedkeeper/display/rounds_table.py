"""The table of a job's last rounds: what was measured, and as many times and sizes as the screen has room for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from broker.messages.job import Job
from broker.messages.progress import ModelEvaluated, RoundCompleted
from broker.messages.reports import Spread
from broker.support import texts
from fedkeeper.display import columns, measured
from fedkeeper.display.columns import Column
from fedkeeper.display.units import DIGITS, format_duration, format_size, short_digest

PENDING: Final = "…"

GAP: Final = 2
"""Spaces between two columns."""

_NUMBER: Final = 7
"""Width of most values: 123.4567."""

_DURATION: Final = 6
"""Width of most durations: 1.75 s."""

_TIMES: Final = 8
"""Rank of the times of a round's phases. Columns of lower ranks are worth narrow gaps."""

_NAME: Final = 20
"""Longest heading: what a learner measures has any name."""


@dataclass(frozen=True)
class RoundsTable:
    """The table, as a rich renderable: a line for each round, whatever the width.

    Attributes:
        rounds: the rounds to show.
        job: the job; None: not known.
        by_server: the server's evaluations, by round.
        by_clients: the clients' evaluations, by round.
    """

    rounds: Sequence[RoundCompleted]
    job: Job | None = None
    by_server: Mapping[int, ModelEvaluated] = field(default_factory=dict)
    by_clients: Mapping[int, ModelEvaluated] = field(default_factory=dict)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table's lines in the width that there is."""
        del console
        heads, rows = self.columns(), [self.row(completed) for completed in self.rounds]
        shown = columns.fit(heads, rows, options.max_width, GAP)
        gap = GAP
        if len(shown) < sum(head.rank < _TIMES for head in heads):
            shown, gap = columns.fit(heads, rows, options.max_width, 1), 1
        for number, cells in enumerate(([head.name for head in heads], *rows)):
            line = (" " * gap).join(cells[index].rjust(width) for index, width in shown)
            yield Text(line, style="" if number else "dim", no_wrap=True, overflow="crop")

    def columns(self) -> list[Column]:
        """Return the columns: of what the job measures, and of the times."""
        metrics = self._metrics if self._is_judged else ()
        return [
            Column("round"),
            *(Column(_heading(name), rank=1 + 4 * at, typical=_NUMBER) for at, name in enumerate(metrics)),
            *([Column("loss", rank=2, typical=_NUMBER)] if self._is_judged else []),
            *([Column("mean / worst 10 %", rank=7)] if self._has_spread else []),
            *(Column(_heading(name), rank=6 if self._is_judged else 1, typical=_NUMBER) for name in self._training),
            Column("clients", rank=3),
            Column("time", rank=4, typical=_DURATION),
            *(Column(name, rank=_TIMES, typical=_DURATION) for name in ("invoke", "start", "train", "aggregate")),
            *([Column("evaluate", rank=_TIMES)] if self._is_judged else []),
            Column("samples", rank=9),
            Column("received", rank=10),
            Column("sent", rank=10, typical=8),
            Column("model", rank=11, typical=DIGITS),
        ]

    def row(self, completed: RoundCompleted) -> list[str]:
        """Return the cells of a round's row."""
        evaluated = self._evaluations.get(completed.round)
        missing = len(completed.missing)
        trained = [measured.training(completed.metrics)] if self._training else []
        return [
            str(completed.round),
            *self._judged(completed.round, evaluated),
            *([self._spread(completed.round)] if self._has_spread else []),
            *("" if value is None else measured.format_value(value[1]) for value in trained),
            f"{len(completed.counted)}" + (f" (-{missing})" if missing else ""),
            *self._times(completed),
            f"{completed.samples:,}",
            format_size(completed.bytes_in),
            format_size(completed.bytes_out),
            short_digest(completed.model.sha256),
        ]

    @property
    def _evaluations(self) -> Mapping[int, ModelEvaluated]:
        """Those that the first columns show: the server's, or the clients' where it has none."""
        is_judged_by_server = self.by_server or (self.job is not None and self.job.test_data)
        return self.by_server if is_judged_by_server else self.by_clients

    @property
    def _is_judged(self) -> bool:
        return bool(self._evaluations) or self.job is None or bool(self.job.test_data) or self.job.is_judged_by_clients

    @property
    def _has_spread(self) -> bool:
        return bool(self.by_clients) or (self.job is not None and self.job.is_judged_by_clients)

    @property
    def _metrics(self) -> tuple[str, ...]:
        return measured.names(
            self.job, [name for each in self._evaluations.values() for name in measured.metrics_of(each)]
        )

    @property
    def _training(self) -> list[str]:
        told = (measured.training(completed.metrics) for completed in reversed(self.rounds))
        return next(([f"train {pair[0]}"] for pair in told if pair is not None), [])

    def _judged(self, round_: int, evaluated: ModelEvaluated | None) -> list[str]:
        if not self._is_judged:
            return []
        if evaluated is None:
            # A later round was evaluated already: this one is not.
            cell = "" if any(later > round_ for later in self._evaluations) else PENDING
            return [cell] * (len(self._metrics) + 1)
        values = measured.metrics_of(evaluated)
        cells = [measured.format_value(values[name]) if name in values else "" for name in self._metrics]
        return [*cells, measured.format_loss(evaluated)]

    def _spread(self, round_: int) -> str:
        evaluated = self.by_clients.get(round_)
        if evaluated is None:
            return "" if any(later > round_ for later in self.by_clients) else PENDING
        spread = _first(evaluated.spread, (*self._metrics, "loss"))
        return "" if spread is None else f"{spread.mean:.4f} / {spread.worst_decile:.4f}"

    def _times(self, completed: RoundCompleted) -> list[str]:
        split = completed.split
        phases = (split.round_s, split.invocation_s, split.clients_start_s, split.training_s, split.aggregation_s)
        times = [format_duration(seconds) for seconds in phases]
        if not self._is_judged:
            return times
        evaluated = self._evaluations.get(completed.round)
        return [*times, format_duration(evaluated.evaluation_s) if evaluated else PENDING]


def _heading(name: str) -> str:
    return columns.shorten(texts.cleaned(name, keep=""), _NAME)


def _first(spreads: Mapping[str, Spread], names: Sequence[str]) -> Spread | None:
    return next((spreads[name] for name in names if name in spreads), None)
