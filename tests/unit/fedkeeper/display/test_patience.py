"""That a job waits is shown if it lasts."""

from collections.abc import Callable
from dataclasses import dataclass, field

from broker.messages.progress import Event, Progress
from fedkeeper.display.patience import WAIT_S, Patience


@dataclass
class Clock:
    """Takes the place of the loop: its calls are made by hand."""

    calls: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def later(self, delay_s: float, call: Callable[[], object]) -> "Clock":
        self.calls.append((delay_s, call))
        return self

    def cancel(self) -> None:
        self.calls.clear()


def progress(events: tuple[Event, ...], what: str) -> Progress:
    return Progress("demo", next(event for event in events if event.what == what), 1.0, "x")


def test_a_wait_that_is_over_at_once_is_not_shown(events: tuple[Event, ...]) -> None:
    shown, clock = list[str](), Clock()
    patience = Patience(lambda each: shown.append(each.event.what), clock.later)
    for what in ("job.started", "job.waiting", "round.opened"):
        patience.take(progress(events, what))
    assert shown == ["job.started", "round.opened"]
    assert clock.calls == []


def test_a_wait_that_lasts_is_shown_and_no_later_than_its_time(events: tuple[Event, ...]) -> None:
    shown, clock = list[str](), Clock()
    patience = Patience(lambda each: shown.append(each.event.what), clock.later)
    patience.take(progress(events, "job.waiting"))
    ((delay_s, call),) = clock.calls
    assert (delay_s, shown) == (WAIT_S, [])
    call()
    assert shown == ["job.waiting"]


def test_at_the_end_nothing_is_left_to_be_shown(events: tuple[Event, ...]) -> None:
    clock = Clock()
    patience = Patience(lambda _: None, clock.later)
    patience.take(progress(events, "job.waiting"))
    patience.close()
    assert clock.calls == []
