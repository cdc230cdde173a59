from typing import Literal

import pytest

from broker.mqtt.group import DEDUPE_WINDOW_US, TRANSITIONS, Group, GroupMessage, GroupSettings, Status
from broker.mqtt.storage import Entry, Name

WAIT_S = 10.0
What = Literal["take", "hold", "free", "done"]


def new_group(me: str = "me", first: int = 0) -> Group:
    return Group(me, GroupSettings("fl.tasks.>", first, WAIT_S))


def entry(number: int, id_: str = "") -> Entry:
    return Entry(f"key-{number}", "fl.tasks.p.c", Name(number, id_ or f"{number:016x}"), b"")


def message(by: str, n: int = 1, what: What = "take", delay_s: float = 0.0) -> GroupMessage:
    return GroupMessage(what, by, n, delay_s)


def test_the_first_claim_for_a_delivery_wins() -> None:
    group = new_group()
    group.add(entry(1))
    assert group.claim_next(0.0) == (entry(1), 1)
    assert group.apply("key-1", message("other"), 0.0) is None
    assert group.apply("key-1", message("me"), 0.0) is None
    assert not group.is_mine("key-1", 1, 1.0)
    assert group.pending == {}


def test_a_pending_event_is_not_claimed_again() -> None:
    group = new_group()
    group.add(entry(1))
    group.claim_next(0.0)
    assert group.claim_next(0.0) is None
    assert group.apply("key-1", message("me"), 0.0) == entry(1)
    assert group.is_mine("key-1", 1, WAIT_S - 1)
    assert group.claim_next(WAIT_S - 1) is None
    assert group.claim_next(WAIT_S) == (entry(1), 2)


def test_the_oldest_event_is_claimed_first() -> None:
    group = new_group()
    for number in (2, 1):
        group.add(entry(number))
    assert group.claim_next(0.0) == (entry(1), 1)
    assert group.claim_next(0.0) == (entry(2), 1)


def test_only_its_holder_gives_an_event_back_and_it_is_free_after_the_delay() -> None:
    group = new_group()
    group.add(entry(1))
    group.apply("key-1", message("other"), 0.0)
    group.apply("key-1", message("unknown", what="free"), 0.0)
    assert group.claim_next(1.0) is None
    group.apply("key-1", message("other", what="free", delay_s=5.0), 1.0)
    assert group.next_free_at_s() == 6.0
    assert group.claim_next(5.9) is None
    assert group.claim_next(6.0) == (entry(1), 2)


def test_a_holder_may_extend_its_time() -> None:
    group = new_group()
    group.add(entry(1))
    group.apply("key-1", message("other"), 0.0)
    group.apply("key-1", message("other", what="hold"), WAIT_S - 1)
    assert group.claim_next(WAIT_S) is None
    assert group.claim_next(2 * WAIT_S - 1) == (entry(1), 2)


@pytest.mark.parametrize(("what", "free_at_s"), [("hold", WAIT_S), ("free", 5.0)])
def test_a_member_that_joins_later_learns_from_the_last_message_alone(what: What, free_at_s: float) -> None:
    group = new_group()
    group.apply("key-1", message("other", n=2, what=what, delay_s=5.0), 0.0)
    group.add(entry(1))
    assert group.claim_next(free_at_s - 0.1) is None
    assert group.claim_next(free_at_s) == (entry(1), 3)


def test_an_acknowledged_event_is_not_claimed_even_if_the_acknowledgement_came_before_it() -> None:
    group = new_group()
    group.apply("key-1", message("other", what="done"), 0.0)
    group.add(entry(1))
    assert group.claim_next(0.0) is None
    assert group.next_free_at_s() is None


@pytest.mark.parametrize("what", ["take", "hold", "free", "done"])
def test_a_message_about_an_acknowledged_event_changes_nothing(what: What) -> None:
    assert TRANSITIONS[Status.DONE] == {}
    group = new_group()
    group.add(entry(1))
    group.apply("key-1", message("me"), 0.0)
    group.apply("key-1", message("me", what="done"), 0.0)
    assert group.apply("key-1", message("me", n=2, what=what), 0.0) is None
    assert not group.is_mine("key-1", 2, 0.0)
    assert group.claim_next(100.0) is None


@pytest.mark.parametrize(
    "late", [message("other", n=1), message("other", n=1, what="hold"), message("me", what="free")]
)
def test_a_message_about_an_earlier_delivery_changes_nothing(late: GroupMessage) -> None:
    group = new_group()
    group.add(entry(1))
    group.apply("key-1", message("other", n=1), 0.0)
    group.apply("key-1", message("me", n=2), 0.0)
    assert group.apply("key-1", late, 5.0) is None
    assert group.is_mine("key-1", 2, WAIT_S - 1)
    assert group.free_at_s("key-1") == WAIT_S


def test_a_deleted_event_is_forgotten() -> None:
    group = new_group()
    group.add(entry(1))
    group.add(entry(2))
    group.keep_only({"key-2"})
    assert group.claim_next(0.0) == (entry(2), 1)
    assert group.claim_next(0.0) is None


def test_a_copy_within_two_minutes_is_not_added() -> None:
    group = new_group()
    assert group.add(entry(1, "same"))
    assert not group.add(entry(DEDUPE_WINDOW_US, "same"))
    assert group.add(entry(DEDUPE_WINDOW_US + 1, "same"))


def test_an_event_before_the_durable_s_first_is_left_out() -> None:
    group = new_group(first=2)
    group.add(entry(1))
    assert group.claim_next(0.0) is None


def test_what_a_member_had_that_has_ended_is_free_at_once() -> None:
    ended = {"them"}
    group = Group("me", GroupSettings("fl.tasks.>", 0, WAIT_S), ended)
    event = Entry("fl/tasks/a/1-0123456789abcdef", "fl.tasks.a", Name(1, "0123456789abcdef"), b"")
    group.add(event)
    group.apply(event.key, GroupMessage("take", "others", 1), 0.0)
    assert group.claim_next(0.0) is None
    group.apply(event.key, GroupMessage("take", "them", 2), 0.0)
    assert group.claim_next(0.0) == (event, 3)
