"""What an MQTT broker says for a bridge that vanishes."""

import asyncio
import sys

import broker
from bridges import presence
from broker import topics
from broker.messages import codec
from broker.messages.register import Presence
from tests.support.brokers import Mosquitto

WITHIN_S = 120.0

BRIDGE = """
import asyncio, sys
import broker
from bridges import presence

async def main():
    async with broker.connect(sys.argv[1], will=presence.will("edge")) as bus:
        await presence.announce(bus, "edge")

asyncio.run(main())
"""


async def test_a_bridge_that_is_killed_is_gone_at_once(mosquitto: Mosquitto) -> None:
    topic = topics.presence(presence.bridge_id("edge"))
    async with broker.connect(mosquitto.url) as bus, bus.watch(topics.presence(topics.ANY)) as values:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", BRIDGE, mosquitto.url)
        async with asyncio.timeout(WITHIN_S):
            here = await anext(values)
            process.kill()
            gone = await anext(values)
            await process.wait()
    assert here.topic == gone.topic == topic
    assert here.payload is not None
    assert gone.payload is not None
    assert [codec.decode(Presence, value).gone for value in (here.payload, gone.payload)] == [False, True]
