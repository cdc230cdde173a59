"""Which platforms have a bridge: presence messages, and their absence."""

import msgspec
import pytest
import structlog

from broker import topics
from broker.deliveries import Deleted, Value
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
def presence(clock: Clock) -> BridgePresence:
    return BridgePresence(clock)


def presence_value(bridge: str = "site-1", platform: str = "edge", *, gone: bool = False) -> Value:
    message = Presence(bridge=bridge, platform=platform, every_s=5.0, gone=gone)
    return Value(topics.presence(platform, bridge), msgspec.json.encode(message), 1)


def test_a_bridge_is_present_until_its_announcement_expires(presence: BridgePresence, clock: Clock) -> None:
    assert not presence.is_present("edge")
    presence.note(presence_value())
    clock.now_s += 14.9
    assert presence.is_present("edge")
    clock.now_s += 0.2
    assert not presence.is_present("edge")
    presence.note(presence_value())
    assert presence.is_present("edge")


def test_its_tasks_are_given_up_only_when_it_had_time_to_come_back(presence: BridgePresence, clock: Clock) -> None:
    assert presence.give_up_s("edge") is None
    presence.note(presence_value())
    assert presence.give_up_s("edge") == 1030.0
    clock.now_s += 1
    presence.note(presence_value(gone=True))
    assert not presence.is_present("edge"), "it announced goodbye"
    assert presence.give_up_s("edge") == 1016.0


def test_one_of_several_bridges_is_enough(presence: BridgePresence) -> None:
    presence.note(presence_value("site-1"))
    presence.note(presence_value("site-2"))
    presence.note(presence_value("site-1", gone=True))
    assert presence.is_present("edge")
    assert not presence.is_present("local")


def test_only_coming_and_going_is_a_change(presence: BridgePresence, clock: Clock) -> None:
    versions = []
    for value in (
        presence_value(),
        presence_value(),
        presence_value(gone=True),
        presence_value(gone=True),
        presence_value(),
    ):
        presence.note(value)
        versions.append(presence.version)
        clock.now_s += 1
    assert versions == [1, 1, 2, 2, 3]


def test_garbage_and_deleted_values_are_no_bridges(presence: BridgePresence) -> None:
    presence.note(Value(topics.presence("edge", "site-1"), b"garbage", 1))
    presence.note(presence_value("site-2"))
    presence.note(Deleted(topics.presence("edge", "site-2"), 2))
    assert not presence.is_present("edge")


def test_a_bridge_speaks_for_its_own_platform_alone(presence: BridgePresence) -> None:
    message = Presence(bridge="site-1", platform="edge", every_s=5.0)
    presence.note(Value(topics.presence("other", "site-1"), msgspec.json.encode(message), 1))
    assert not presence.is_present("edge")
    assert not presence.is_present("other")


def test_a_bridge_speaks_on_its_own_topic_alone(presence: BridgePresence) -> None:
    message = Presence(bridge="site-1", platform="edge", every_s=5.0)
    presence.note(Value(topics.presence("edge", "site-2"), msgspec.json.encode(message), 1))
    assert not presence.is_present("edge")


def test_silence_does_not_count_while_nobody_could_be_heard(clock: Clock) -> None:
    """The broker was away for 36 s. Bridges announce themselves every 5 s, and connect again at another moment."""
    connected_since_s = 0.0
    presence = BridgePresence(clock, lambda: connected_since_s)
    presence.note(presence_value())
    presence.note(presence_value("site-2", "stopped", gone=True))
    clock.now_s += 36
    connected_since_s = clock.now_s
    assert presence.is_present("edge")
    assert presence.give_up_s("edge") == clock.now_s + 30
    assert not presence.is_present("stopped"), "it has said so itself"
    assert presence.give_up_s("stopped") == clock.now_s + 15, "it had no time to come back"
    clock.now_s += 15.1
    assert not presence.is_present("edge")


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(600.0, "600 s ahead of"), (-600.0, "600 s behind"), (4.0, ""), (0.0, "")]
)
def test_a_bridge_whose_clock_is_wrong_is_named_once(ahead_s: float, said: str) -> None:
    with structlog.testing.capture_logs() as logs:
        presence = BridgePresence(lambda: 0.0, epoch_s=lambda: 77.0)
        for number in range(3):
            message = Presence(bridge="site-1", platform="edge", every_s=5.0, clock_s=5000.0 + ahead_s)
            payload = msgspec.json.encode(message)
            presence.note(Value(topics.presence("edge", "site-1"), payload, number, time_s=5000.0))
    assert len(logs) == bool(said)
    assert said in "".join(entry["event"] for entry in logs)


def test_where_the_broker_has_no_clock_an_announcement_that_comes_late_makes_no_clock_wrong() -> None:
    now = [5000.0]
    with structlog.testing.capture_logs() as logs:
        presence = BridgePresence(lambda: 0.0, epoch_s=lambda: now[0])
        for late_s in (0.0, 60.0, 55.0, 0.0, 60.0):
            message = Presence(bridge="site-1", platform="edge", every_s=5.0, clock_s=now[0])
            now[0] += late_s
            presence.note(Value(topics.presence("edge", "site-1"), msgspec.json.encode(message), 1))
        assert not logs
        for _ in range(3):
            message = Presence(bridge="site-1", platform="edge", every_s=5.0, clock_s=now[0] + 600)
            presence.note(Value(topics.presence("edge", "site-1"), msgspec.json.encode(message), 1))
    assert [entry["event"].split(" is ")[1].split(":")[0] for entry in logs] == ["600 s ahead of the broker's"]
