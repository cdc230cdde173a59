"""Whose bridge is there: what it says, and what its silence means."""

import msgspec
import pytest

from broker import topics
from broker.base import Deleted, Value
from broker.messages.register import Presence
from server.presence import BridgePresence


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attendance(clock: Clock) -> BridgePresence:
    return BridgePresence(clock)


def said(bridge: str = "site-1", platform: str = "edge", *, gone: bool = False) -> Value:
    presence = Presence(bridge=bridge, platform=platform, every_s=5.0, gone=gone)
    return Value(topics.presence(platform, bridge), msgspec.json.encode(presence), 1)


def test_a_bridge_is_there_as_long_as_it_says_so(attendance: BridgePresence, clock: Clock) -> None:
    assert not attendance.is_present("edge")
    attendance.note(said())
    clock.now_s += 14.9
    assert attendance.is_present("edge")
    clock.now_s += 0.2
    assert not attendance.is_present("edge")
    attendance.note(said())
    assert attendance.is_present("edge")


def test_its_tasks_are_given_up_only_when_it_had_time_to_come_back(attendance: BridgePresence, clock: Clock) -> None:
    assert attendance.gone_s("edge") is None
    attendance.note(said())
    assert attendance.gone_s("edge") == 1030.0
    clock.now_s += 1
    attendance.note(said(gone=True))
    assert not attendance.is_present("edge"), "it said goodbye"
    assert attendance.gone_s("edge") == 1016.0


def test_one_of_several_bridges_is_enough(attendance: BridgePresence) -> None:
    attendance.note(said("site-1"))
    attendance.note(said("site-2"))
    attendance.note(said("site-1", gone=True))
    assert attendance.is_present("edge")
    assert not attendance.is_present("local")


def test_only_coming_and_going_is_a_change(attendance: BridgePresence, clock: Clock) -> None:
    versions = []
    for value in (said(), said(), said(gone=True), said(gone=True), said()):
        attendance.note(value)
        versions.append(attendance.version)
        clock.now_s += 1
    assert versions == [1, 1, 2, 2, 3]


def test_garbage_and_deleted_values_are_no_bridges(attendance: BridgePresence) -> None:
    attendance.note(Value(topics.presence("edge", "site-1"), b"garbage", 1))
    attendance.note(said("site-2"))
    attendance.note(Deleted(topics.presence("edge", "site-2"), 2))
    assert not attendance.is_present("edge")


def test_a_bridge_speaks_for_its_own_platform_alone(attendance: BridgePresence) -> None:
    presence = Presence(bridge="site-1", platform="edge", every_s=5.0)
    attendance.note(Value(topics.presence("other", "site-1"), msgspec.json.encode(presence), 1))
    assert not attendance.is_present("edge")
    assert not attendance.is_present("other")
