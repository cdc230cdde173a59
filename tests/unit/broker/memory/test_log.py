"""The storage of the memory broker; the tests set the time."""

import pytest

from broker.deliveries import Receipt
from broker.errors import Conflict
from broker.families import Family, Keep
from broker.memory.log import DEDUPE_WINDOW_S, Consumer, Log


def log_of(keep: Keep, max_age_s: float = 0.0) -> Log:
    return Log(Family(name="TEST", filters=("fl.>",), keep=keep, writers=(), max_age_s=max_age_s))


def topics_of(log: Log) -> list[str]:
    return [message.topic for message in log.after(0, "fl.>")]


def test_a_dedupe_id_is_forgotten_after_its_window() -> None:
    log = log_of(Keep.LOG)
    log.append("fl.a", b"", 0.0, "id")
    assert log.append("fl.a", b"", DEDUPE_WINDOW_S, "id") == Receipt(1, stored=False)
    assert log.append("fl.a", b"", DEDUPE_WINDOW_S + 1, "id") == Receipt(2)


def test_old_messages_are_deleted() -> None:
    log = log_of(Keep.LOG, max_age_s=10.0)
    for second in range(20):
        log.append(f"fl.{second}", b"", float(second))
    assert topics_of(log) == [f"fl.{second}" for second in range(9, 20)]


def test_first_keeps_the_first_and_last_the_last_message() -> None:
    first, last = log_of(Keep.FIRST), log_of(Keep.LAST)
    for log in (first, last):
        log.append("fl.a", b"1", 0.0)
        log.append("fl.a", b"2", 0.0)
    assert [m.payload for m in first.after(0, "fl.>")] == [b"1"]
    assert [(m.sequence, m.payload) for m in last.after(0, "fl.>")] == [(2, b"2")]


def test_a_deleted_value_counts_as_missing_and_keeps_its_sequence() -> None:
    log = log_of(Keep.LAST)
    log.put("fl.a", b"1", 0.0, 0)
    log.put("fl.a", None, 0.0, 1)
    assert log.values("fl.>") == []
    with pytest.raises(Conflict):
        log.put("fl.a", b"2", 0.0, 1)
    assert log.put("fl.a", b"2", 0.0, 0) == 3


def test_a_log_of_many_changes_does_not_grow() -> None:
    log = log_of(Keep.LAST)
    for number in range(100_000):
        log.append(f"fl.{number % 10}", b"", 0.0)
    assert len(topics_of(log)) == 10
    assert len(log._order) < 2000


def test_a_delivery_belongs_to_its_subscriber_until_it_is_due() -> None:
    log = log_of(Keep.QUEUE)
    log.append("fl.a", b"1", 0.0)
    consumer = Consumer(log, "fl.>")
    first = consumer.take(1, 0.0, 30.0)
    assert first is not None
    assert first[1] == 1
    assert consumer.due_times_s(1, 29.0) == [30.0]
    assert consumer.take(2, 29.0, 30.0) is None
    consumer.extend(1, 50.0)
    assert consumer.take(2, 49.0, 30.0) is None
    again = consumer.take(2, 50.0, 30.0)
    assert again is not None
    assert again[1] == 2
    consumer.ack(1)
    assert topics_of(log) == []


def test_a_delivery_that_was_given_back_has_no_subscriber() -> None:
    log = log_of(Keep.LOG)
    log.append("fl.a", b"1", 0.0)
    consumer = Consumer(log, "fl.>")
    consumer.take(1, 0.0, 30.0)
    consumer.nak(1, 5.0)
    assert consumer.due_times_s(1, 0.0) == []
    assert consumer.next_due_s() == 5.0
    assert consumer.take(1, 4.0, 30.0) is None
    assert consumer.take(1, 5.0, 30.0) is not None


def test_a_purged_message_is_not_delivered_again() -> None:
    log = log_of(Keep.FIRST)
    log.append("fl.a", b"1", 0.0)
    consumer = Consumer(log, "fl.>")
    consumer.take(1, 0.0, 30.0)
    log.purge("fl.a")
    assert consumer.take(1, 31.0, 30.0) is None
    assert consumer.next_due_s() is None
