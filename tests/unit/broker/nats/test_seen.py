"""What tells one store from another."""

import pytest

from broker.nats.seen import Change, Seen, StreamInfo, StreamState

MONDAY, TUESDAY = "2026-11-23T10:00:00.123456789Z", "2026-11-24T10:00:00Z"


def info(name: str, last: int, *, created: str = MONDAY, last_ts: str = TUESDAY) -> StreamInfo:
    return StreamInfo({"name": name}, created, StreamState(last, last_ts))


@pytest.fixture
def seen() -> Seen:
    seen = Seen(["STATUS"])
    for name in ("TASKS", "RECORDS", "STATUS"):
        seen.learn(info(name, 5))
    seen.note("TASKS", 9)
    seen.note("STATUS", 9)
    return seen


def test_the_same_store_has_not_changed(seen: Seen) -> None:
    assert seen.streams == ("TASKS", "RECORDS", "STATUS")
    assert seen.change({name: info(name, 9) for name in seen.streams}) is None


def test_new_messages_are_no_change(seen: Seen) -> None:
    assert seen.change({name: info(name, 1000) for name in seen.streams}) is None


def test_the_last_second_of_a_relaxed_stream_may_be_lost(seen: Seen) -> None:
    assert seen.change({"TASKS": info("TASKS", 9), "STATUS": info("STATUS", 3)}) is None


def test_a_stream_that_is_shorter_is_an_older_store(seen: Seen) -> None:
    infos: dict[str, StreamInfo | None] = {"TASKS": info("TASKS", 8), "RECORDS": info("RECORDS", 5, last_ts="2027")}
    reason = "it is older, and what was written after 2026-11-24 10:00:00 UTC is gone"
    assert seen.change(infos) == Change("older", reason)


def test_an_empty_stream_is_a_store_from_before_its_first_message(seen: Seen) -> None:
    change = seen.change({"TASKS": info("TASKS", 0, last_ts="0001-01-01T00:00:00Z")})
    assert change == Change("older", "it is older, from before the first message")


def test_streams_that_were_made_again_are_another_store(seen: Seen) -> None:
    change = seen.change({"RECORDS": info("RECORDS", 50, created=TUESDAY)})
    assert change == Change("another", "it was emptied, or is another one")


def test_missing_streams_are_an_emptied_store(seen: Seen) -> None:
    assert seen.change(dict.fromkeys(seen.streams)) == Change("emptied", "it was emptied")
    change = seen.change({"TASKS": None, "RECORDS": info("RECORDS", 5)})
    assert change == Change("older", "its stream TASKS is missing")


def test_who_may_not_ask_for_streams_compares_none() -> None:
    seen = Seen()
    seen.note("PROGRESS", 7)
    assert seen.streams == ()
    assert seen.change({}) is None
