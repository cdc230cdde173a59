from typing import Literal

from broker.mqtt.group import DEDUPE_WINDOW_US, Group, GroupMessage, GroupSettings
from broker.mqtt.storage import Entry, Name

WAIT_S = 10.0


def group(me: str = "me", first: int = 0) -> Group:
    return Group(me, GroupSettings("fl.tasks.>", first, WAIT_S))


def entry(number: int, id_: str = "") -> Entry:
    return Entry(f"key-{number}", "fl.tasks.p.c", Name(number, id_ or f"{number:016x}"), b"")


def take(
    by: str, n: int = 1, what: Literal["take", "hold", "free", "done"] = "take", delay_s: float = 0.0
) -> GroupMessage:
    return GroupMessage(what, by, n, delay_s)


def test_the_first_claim_for_a_delivery_has_it() -> None:
    mine = group()
    mine.add(entry(1))
    assert mine.claim_next(0.0) == (entry(1), 1)
    assert mine.apply("key-1", take("other"), 0.0) is None
    assert mine.apply("key-1", take("me"), 0.0) is None
    assert not mine.is_mine("key-1", 1, 1.0)
    assert mine.pending == {}


def test_what_is_asked_for_is_not_asked_for_again_until_somebody_has_it() -> None:
    mine = group()
    mine.add(entry(1))
    mine.claim_next(0.0)
    assert mine.claim_next(0.0) is None
    assert mine.apply("key-1", take("me"), 0.0) == entry(1)
    assert mine.is_mine("key-1", 1, WAIT_S - 1)
    assert mine.claim_next(WAIT_S - 1) is None
    assert mine.claim_next(WAIT_S) == (entry(1), 2)


def test_the_oldest_comes_first_whatever_came_first() -> None:
    mine = group()
    for number in (2, 1):
        mine.add(entry(number))
    assert mine.claim_next(0.0) == (entry(1), 1)
    assert mine.claim_next(0.0) == (entry(2), 1)


def test_given_back_it_is_free_after_its_delay_and_only_by_who_has_it() -> None:
    mine = group()
    mine.add(entry(1))
    mine.apply("key-1", take("other"), 0.0)
    mine.apply("key-1", take("stranger", what="free"), 0.0)
    assert mine.claim_next(1.0) is None
    mine.apply("key-1", take("other", what="free", delay_s=5.0), 1.0)
    assert mine.next_free_at_s() == 6.0
    assert mine.claim_next(5.9) is None
    assert mine.claim_next(6.0) == (entry(1), 2)


def test_who_needs_longer_says_so() -> None:
    mine = group()
    mine.add(entry(1))
    mine.apply("key-1", take("other"), 0.0)
    mine.apply("key-1", take("other", what="hold"), WAIT_S - 1)
    assert mine.claim_next(WAIT_S) is None
    assert mine.claim_next(2 * WAIT_S - 1) == (entry(1), 2)


def test_done_is_done_even_if_it_is_told_before_the_event() -> None:
    mine = group()
    mine.apply("key-1", take("other", what="done"), 0.0)
    mine.add(entry(1))
    assert mine.claim_next(0.0) is None
    assert mine.next_free_at_s() is None


def test_what_is_gone_is_nobodys() -> None:
    mine = group()
    mine.add(entry(1))
    mine.add(entry(2))
    mine.keep_only({"key-2"})
    assert mine.claim_next(0.0) == (entry(2), 1)
    assert mine.claim_next(0.0) is None


def test_a_copy_within_two_minutes_is_dropped() -> None:
    mine = group()
    assert mine.add(entry(1, "same"))
    assert not mine.add(entry(DEDUPE_WINDOW_US, "same"))
    assert mine.add(entry(DEDUPE_WINDOW_US + 1, "same"))


def test_what_was_before_a_durables_time_does_not_concern_it() -> None:
    mine = group(first=2)
    mine.add(entry(1))
    assert mine.claim_next(0.0) is None
