"""Which brokers are refused because they do not return retained messages as we need it."""

import asyncio
from typing import Any

import pytest

from broker import BrokerUrl
from broker.errors import ConnectFailed, Denied
from broker.mqtt import probe


class FakeLink:
    """A broker whose fetches can be spoilt.

    Attributes:
        late: how many fetches find nothing, after the messages were retained.
        spoilt: which of the fetches misses a message; 0: none.
        forbidden: the operation that this user may not do.
    """

    address = BrokerUrl.parse("mqtt://broker")

    def __init__(self, *, late: int = 0, spoilt: int = 0, forbidden: str = "") -> None:
        self.late, self.spoilt, self.forbidden = late, spoilt, forbidden
        self.retained: dict[str, bytes] = {}
        self.fetches = 0

    async def publish(self, topic: str, payload: bytes, *, expires_s: float = 0.0) -> None:
        if self.forbidden == "publish":
            raise Denied(topic, "not authorized")
        if payload:
            assert expires_s > 0
            self.retained[topic] = payload
        else:
            self.retained.pop(topic, None)

    async def fetch(self, *filters: str) -> dict[str, bytes]:
        if self.forbidden == "fetch":
            raise Denied(filters[0], "not authorized")
        self.fetches += 1
        if self.fetches <= self.late:
            return {}
        found = {topic: self.retained[topic] for topic in filters if topic in self.retained}
        if self.fetches == self.spoilt:
            found.popitem()
        return found


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_READ_PAUSE_S", 0.0)


def check(link: FakeLink) -> None:
    fake: Any = link
    asyncio.run(probe.check(fake))
    assert not link.retained


@pytest.mark.parametrize("late", [0, 5])
def test_a_broker_that_returns_each_message_each_time_can_serve(late: int) -> None:
    check(link := FakeLink(late=late))
    assert link.fetches == late + 1 + probe.FETCHES


@pytest.mark.parametrize("spoilt", [2, 1 + probe.FETCHES])
def test_a_broker_that_leaves_out_a_message_once_is_refused(spoilt: int) -> None:
    link = FakeLink(spoilt=spoilt)
    with pytest.raises(ConnectFailed, match=r"1 of 16 were missing\). Use Mosquitto"):
        check(link)
    assert not link.retained


def test_a_broker_that_never_returns_a_message_is_refused() -> None:
    with pytest.raises(ConnectFailed, match="does not return what was retained below fk/marks/"):
        check(FakeLink(late=1000))


@pytest.mark.parametrize("forbidden", ["publish", "fetch"])
def test_a_user_without_the_rights_tries_nothing(forbidden: str) -> None:
    check_rights: Any = FakeLink(forbidden=forbidden)
    asyncio.run(probe.check(check_rights))
