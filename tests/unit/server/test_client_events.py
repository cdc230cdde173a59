"""Events about one client: each outcome of an invocation, an absent bridge, a counted update."""

from typing import Any

import pytest

from broker.messages.invocation import Invocation, Outcome
from broker.messages.job_record import Member
from broker.messages.progress import ClientFailed, ClientRefused, ClientRestored, ClientTraining, Event, UpdateCounted
from broker.messages.update import UpdateHeader
from server import client_events


def invocation(outcome: Outcome, *, reason: str = "") -> Invocation:
    return Invocation(
        job="demo",
        round=3,
        client="c-0",
        platform="edge",
        attempt=2,
        outcome=outcome,
        activation="a-7",
        cold=True,
        reason=reason,
    )


EVENTS: dict[Outcome, Event | None] = {
    "accepted": None,
    "running": ClientTraining(round=3, client="c-0", platform="edge", activation="a-7", attempt=2, cold=True),
    "succeeded": None,
    "refused": ClientRefused(round=3, client="c-0", platform="edge", attempt=2, reason="why"),
    "restored": ClientRestored(round=3, client="c-0", platform="edge", attempt=2, reason="why"),
    "failed": ClientFailed(round=3, client="c-0", platform="edge", attempt=2, reason="why", final=False),
    "dead": ClientFailed(round=3, client="c-0", platform="edge", attempt=2, reason="why", final=True),
    "expired": ClientFailed(round=3, client="c-0", platform="edge", attempt=2, reason="why", final=True),
}


@pytest.mark.parametrize("outcome", EVENTS)
def test_an_outcome_is_announced_as_its_event(outcome: Outcome) -> None:
    assert client_events.from_invocation(invocation(outcome, reason="why")) == EVENTS[outcome]


def test_a_client_without_a_bridge_has_failed_before_its_first_attempt() -> None:
    event = client_events.bridge_absent(Member("c-0", "edge", "", "", 10), 3)
    reason = "no bridge of edge is there any more"
    assert event == ClientFailed(round=3, client="c-0", platform="edge", attempt=0, reason=reason, final=True)


def test_a_counted_update_is_announced_with_its_metrics_and_its_time() -> None:
    header = UpdateHeader(
        job="demo",
        round=3,
        attempt=1,
        client="c-0",
        samples=10,
        base="",
        token="",
        metrics={"loss": 0.5},
        seconds={"train": 1.5, "fetch": 9.0},
        processor="aarch64 NEON",
    )
    assert client_events.update_counted(header, 2, 4) == UpdateCounted(
        round=3,
        client="c-0",
        attempt=1,
        samples=10,
        counted=2,
        of=4,
        trained_s=1.5,
        metrics={"loss": 0.5},
        processor="aarch64 NEON",
    )


def test_what_is_no_kind_of_processor_is_not_announced() -> None:
    assert client_events.update_counted(judged(processor="\x1b[31mred"), 2, 5).processor == ""


def judged(**changes: Any) -> UpdateHeader:
    fields: dict[str, Any] = {"judged": 4, "evaluation": {"loss": 0.25}, "metrics": {"loss": 0.5}, **changes}
    return UpdateHeader(job="demo", round=3, attempt=1, client="c-0", samples=10, base="", token="", **fields)


def test_a_counted_update_tells_what_the_client_found_on_its_hold_out() -> None:
    event = client_events.update_counted(judged(), 2, 5)
    assert (event.judged, event.evaluation, event.samples, event.purpose) == (4, {"loss": 0.25}, 10, "train")


def test_a_client_that_only_judged_has_trained_on_nothing() -> None:
    event = client_events.update_counted(judged(), 2, 5, "evaluate")
    assert (event.judged, event.samples, event.purpose) == (4, 0, "evaluate")


def test_a_site_that_shows_only_sums_shows_no_client_s_evaluation() -> None:
    event = client_events.update_counted(judged(metrics_scope="sum"), 2, 5)
    assert (event.evaluation, event.metrics, event.judged) == ({}, {}, 4)
