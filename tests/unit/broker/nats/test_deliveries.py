"""The order in which a delivery is given back to JetStream."""

import time
from typing import cast

from nats.aio.msg import Msg

from broker.nats.deliveries import DurableDeliveries
from broker.nats.link import Link
from broker.nats.pull import Arrival, Feed

ACK_SUBJECT = "$JS.ACK.FEDKEEPER_TASKS.bridge-edge.1.7.1.1.0"


class RecordingFeed:
    """A feed with one message that writes each release into a list."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = steps

    async def next(self) -> Arrival:
        message = Msg(None, subject="fl.tasks.edge.c1", data=b"task", reply=ACK_SUBJECT)  # type: ignore[arg-type]
        return Arrival(message, sequence=7, consumer_sequence=1, attempt=1, time_s=time.time(), pending=0)

    def release(self, sequence: int) -> None:
        self._steps.append(f"released {sequence}")


class RecordingLink:
    """A link that writes each message into a list."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = steps

    async def send(self, subject: str, payload: bytes) -> None:
        assert subject == ACK_SUBJECT
        self._steps.append(f"sent {payload.split()[0].decode()}")


async def test_a_message_is_released_before_its_nak_is_sent_or_its_next_delivery_would_be_dropped() -> None:
    steps: list[str] = []
    feed, link = cast("Feed", RecordingFeed(steps)), cast("Link", RecordingLink(steps))
    delivery = await anext(DurableDeliveries(feed, link, None, None))  # type: ignore[arg-type]
    await delivery.nak(0.0)
    assert steps == ["released 7", "sent -NAK"]
