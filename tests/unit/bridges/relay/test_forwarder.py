"""The id of an event that crosses."""

from bridges.relay.forwarder import fingerprint


def test_copies_of_an_event_have_one_id_and_others_have_others() -> None:
    assert fingerprint("fl.a", b"1") == fingerprint("fl.a", b"1")
    assert len({fingerprint("fl.a", b"1"), fingerprint("fl.a", b"2"), fingerprint("fl.b", b"1")}) == 3
