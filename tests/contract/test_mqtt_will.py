"""The will that an MQTT broker publishes for a bridge that vanishes."""

import asyncio
import sys

import broker
from bridges import presence
from broker import topics
from broker.messages import codec
from broker.messages.register import Presence
from tests.support.brokers import Mosquitto
from tests.support.values import payload_of

WITHIN_S = 120.0

BRIDGE = """
import asyncio, sys
import broker
from bridges import presence

async def main():
    bridge = presence.Bridge("edge")
    async with broker.connect(sys.argv[1], will=presence.will(bridge)) as bus:
        await presence.announce(bus, bridge)

asyncio.run(main())
"""


async def test_a_bridge_that_is_killed_is_gone_at_once(mosquitto: Mosquitto) -> None:
    topic = presence.Bridge("edge").topic
    async with broker.connect(mosquitto.url) as bus, bus.watch(topics.presence(topics.ANY, topics.ANY)) as values:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", BRIDGE, mosquitto.url)
        async with asyncio.timeout(WITHIN_S):
            here = await anext(values)
            process.kill()
            gone = await anext(values)
            await process.wait()
    assert here.topic == gone.topic == topic
    assert [codec.decode(Presence, payload_of(value)).gone for value in (here, gone)] == [False, True]
