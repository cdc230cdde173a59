"""The deduplication id of an event."""

from bridges.relay.forwarder import fingerprint


def test_copies_of_an_event_have_the_same_id_and_other_events_do_not() -> None:
    assert fingerprint("fl.a", b"1") == fingerprint("fl.a", b"1")
    assert len({fingerprint("fl.a", b"1"), fingerprint("fl.a", b"2"), fingerprint("fl.b", b"1")}) == 3
