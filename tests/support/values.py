"""Helpers for tests of retained values."""

from broker.deliveries import Deleted, Value


def payload_of(change: Value | Deleted | None) -> bytes:
    """The payload of a value that must be there."""
    assert isinstance(change, Value)
    return change.payload
