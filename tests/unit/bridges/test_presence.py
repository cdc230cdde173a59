"""What a bridge announces."""

import asyncio

import broker
from bridges import presence
from bridges.machine import Machine
from bridges.platform import Condition
from bridges.presence import Bridge
from bridges.problems import Problems
from broker.messages import codec
from broker.messages.register import Host, Presence
from tests.support.fakes import running

MACHINE = Machine("board-7", "id-7", "0.2.0", lambda: 4096, lambda: 50000)


def test_a_presence_tells_the_machine_the_broker_the_processor_and_what_fails() -> None:
    problems = Problems()
    problems.note("broker", "the broker is full")
    bridge = Bridge(
        "edge",
        is_own=True,
        machine=MACHINE,
        address="tls://backbone:4222",
        condition=lambda: Condition("aarch64 NEON", "cuda", "worker can't start: no GPU", is_able=False),
        problems=problems,
    )
    said = bridge.presence()
    assert (said.platform, said.is_own, said.gone) == ("edge", True, True)
    assert said.host == Host(
        name="board-7",
        id="id-7",
        version="0.2.0",
        broker="tls://backbone:4222",
        processor="aarch64 NEON",
        device="cuda",
        memory_mb=4096,
        disk_mb=50000,
        problem="worker can't start: no GPU; the broker is full",
    )
    problems.clear("broker")
    assert bridge.presence().host != said.host


def test_a_will_says_whose_goodbye_it_is() -> None:
    gone = codec.decode(Presence, presence.will(Bridge("edge", is_own=True, machine=MACHINE)).payload)
    assert gone.gone
    assert gone.host is not None
    assert gone.host.id == "id-7"


async def test_each_announcement_is_new_and_the_last_one_is_a_goodbye() -> None:
    free = iter(range(100, 0, -1))
    machine = Machine("board-7", "id-7", memory_mb=lambda: next(free))
    bridge, announced = Bridge("edge", machine=machine, every_s=0.001), asyncio.Event()

    async with broker.connect("memory://presence") as bus:

        async def memory_mb() -> int:
            value = await bus.get(bridge.topic)
            assert value is not None
            said = codec.decode(Presence, value.payload)
            assert said.host is not None
            return said.host.memory_mb or 0

        async with asyncio.timeout(60), running(presence.announce(bus, bridge, on_announced=announced.set)):
            await announced.wait()
            first = await memory_mb()
            while await memory_mb() == first:
                announced.clear()
                await announced.wait()
        value = await bus.get(bridge.topic)
    assert value is not None
    assert codec.decode(Presence, value.payload).gone
