"""The table of a job's last rounds: what was measured, and where the time went if the screen is wide enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from broker.messages.job import Job
from broker.messages.progress import ModelEvaluated, RoundCompleted
from broker.messages.reports import Spread
from fedkeeper import measured

WIDE: Final = 100
"""Narrower screens show one time for each round. Columns."""

PENDING: Final = "…"


@dataclass(frozen=True)
class RoundsTable:
    """The table, as a rich renderable.

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
        """Yield the table in the width that there is."""
        del console
        is_wide = options.max_width >= WIDE
        table = Table(box=None, padding=(0, 2) if is_wide else (0, 1, 0, 0), header_style="dim")
        for name in self.columns(is_wide=is_wide):
            table.add_column(Text(name), justify="right", no_wrap=True)
        for completed in self.rounds:
            table.add_row(*self.row(completed, is_wide=is_wide))
        yield table

    def columns(self, *, is_wide: bool) -> list[str]:
        """Return the columns' names: of what the job measures, and of the times."""
        judged = [*self._metrics, "loss"] if self._is_judged else []
        spread = ["mean / worst 10 %"] if self._has_spread else []
        times = ["invoke", "start", "train", "aggregate", "evaluate"] if is_wide else ["time"]
        return ["round", *judged, *spread, *self._training, "clients", *times]

    def row(self, completed: RoundCompleted, *, is_wide: bool) -> list[str]:
        """Return the cells of a round's row.

        Args:
            completed: the round.
            is_wide: whether the times of its phases have columns.
        """
        evaluated = self._evaluations.get(completed.round)
        missing = len(completed.missing)
        trained = [measured.training(completed.metrics)] if self._training else []
        return [
            str(completed.round),
            *self._judged(completed.round, evaluated),
            *([self._spread(completed.round)] if self._has_spread else []),
            *("" if value is None else measured.format_value(value[1]) for value in trained),
            f"{len(completed.counted)}" + (f" (-{missing})" if missing else ""),
            *self._times(completed, is_wide=is_wide),
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

    def _times(self, completed: RoundCompleted, *, is_wide: bool) -> list[str]:
        split = completed.split
        if not is_wide:
            return [format_duration(split.round_s)]
        phases = (split.invocation_s, split.clients_start_s, split.training_s, split.aggregation_s)
        evaluated = self._evaluations.get(completed.round)
        evaluation = format_duration(evaluated.evaluation_s) if evaluated else PENDING if self._is_judged else ""
        return [*map(format_duration, phases), evaluation]


def format_duration(seconds: float) -> str:
    """Return a duration in milliseconds or seconds, with its unit."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _first(spreads: Mapping[str, Spread], names: Sequence[str]) -> Spread | None:
    return next((spreads[name] for name in names if name in spreads), None)
