"""Small messages that are published at the same time are sent together, and nobody notices but the disk."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from nats.aio.client import Client

import broker
from broker import Broker, topics
from broker.errors import Denied
from broker.nats.batches import LEAST, MOST
from broker.nats.server import NatsServer

SOON_S = 60.0
MANY = MOST + LEAST + 1
KILLS = 6

PROGRESS = "FEDKEEPER_PROGRESS"
BATCH = "Nats-Batch-Id"


async def batches(client: Client, stream: str) -> Counter[str]:
    """The number of messages of each batch in a stream; "" stands for single ones."""
    manager = client.jsm()
    last = (await manager.stream_info(stream)).state.last_seq
    found = Counter[str]()
    for sequence in range(1, last + 1):
        found[((await manager.get_msg(stream, sequence)).headers or {}).get(BATCH, "")] += 1
    return found


def topic(number: int) -> str:
    return topics.progress("job-1", "round", f"n{number}")


async def publish(bus: Broker, numbers: range, *, run: str = "") -> list[broker.Receipt]:
    """Publish at the same time, with ids; with the same run again they are repetitions."""
    async with asyncio.timeout(SOON_S):
        sent = [bus.publish(topic(number), b"%d" % number, dedupe=f"id-{run}-{number}") for number in numbers]
        return await asyncio.gather(*sent)


async def payloads(bus: Broker, count: int) -> list[int]:
    async with asyncio.timeout(SOON_S), bus.subscribe(topics.job_progress("job-1")) as events:
        return [int(await (await anext(events)).read()) for _ in range(count)]


async def test_each_message_has_its_own_receipt_and_they_keep_their_order(
    nats_server: NatsServer, client: Client
) -> None:
    async with broker.connect(nats_server.url) as bus:
        receipts = await publish(bus, range(MANY))
        assert [receipt.sequence for receipt in receipts] == [*range(1, MANY + 1)]
        assert all(receipt.stored for receipt in receipts)
        assert await payloads(bus, MANY) == [*range(MANY)]
    assert sorted((await batches(client, PROGRESS)).values()) == [LEAST + 1, MOST]


async def test_a_few_messages_are_no_batch(nats_server: NatsServer, client: Client) -> None:
    async with broker.connect(nats_server.url) as bus:
        receipts = await publish(bus, range(LEAST - 1))
        assert [receipt.sequence for receipt in receipts] == [*range(1, LEAST)]
    assert await batches(client, PROGRESS) == {"": LEAST - 1}


async def test_repetitions_among_new_messages_are_not_stored_twice(nats_server: NatsServer) -> None:
    async with broker.connect(nats_server.url) as bus:
        await publish(bus, range(LEAST))
        receipts = await publish(bus, range(2 * LEAST))
        assert [receipt.stored for receipt in receipts] == [False] * LEAST + [True] * LEAST
        assert [receipt.sequence for receipt in receipts[:LEAST]] == [*range(1, LEAST + 1)]
        assert sorted(await payloads(bus, 2 * LEAST)) == [*range(2 * LEAST)]


async def test_a_stream_that_takes_no_batches_gets_single_messages(nats_server: NatsServer, client: Client) -> None:
    """As on a server before 2.12, or if an operator has switched them off."""
    async with broker.connect(nats_server.url) as bus:
        manager = client.jsm()
        await manager.update_stream((await manager.stream_info(PROGRESS)).config.evolve(allow_atomic=False))
        for run in ("a", "b"):
            assert all(receipt.stored for receipt in await publish(bus, range(LEAST), run=run))
        assert (await manager.stream_info(PROGRESS)).state.messages == 2 * LEAST
    assert await batches(client, PROGRESS) == {"": 2 * LEAST}


RIGHTS = """
authorization { users: [
  { user: "fedkeeper", password: "admin" },
  { user: "narrow", password: "secret", permissions: {
      publish: ["fl.progress.job-1.>", "_INBOX_narrow.>"], subscribe: ["_INBOX_narrow.>"] } },
] }
"""


@pytest.mark.parametrize("count", [1, LEAST])
async def test_what_one_may_not_publish_keeps_no_other_message_back(tmp_path: Path, count: int) -> None:
    async with (
        NatsServer(tmp_path, max_file_bytes=2 << 30, settings=RIGHTS) as server,
        broker.connect(f"nats://fedkeeper:admin@127.0.0.1:{server.port}"),
        broker.connect(f"nats://narrow:secret@127.0.0.1:{server.port}") as bus,
        asyncio.timeout(SOON_S),
    ):
        forbidden = bus.publish(topics.progress("job-2", "round", "completed"), b"0")
        sent = [bus.publish(topic(number), b"%d" % number, dedupe=f"id-{number}") for number in range(count)]
        refused, *receipts = await asyncio.gather(forbidden, *sent, return_exceptions=True)
        assert isinstance(refused, Denied)
        assert all(isinstance(receipt, broker.Receipt) and receipt.stored for receipt in receipts)


async def test_what_was_acknowledged_is_there_once_however_often_the_server_is_killed(
    nats_server: NatsServer,
) -> None:
    async with broker.connect(nats_server.url) as bus, asyncio.timeout(2 * SOON_S):
        for run in range(KILLS):
            publishing = asyncio.create_task(publish(bus, range(MANY), run=str(run)))
            # Some batches are stored by now, others are on their way.
            await asyncio.sleep(0.001 * run)
            await nats_server.kill()
            await nats_server.start()
            assert len(await publishing) == MANY
        found = Counter(await payloads(bus, KILLS * MANY))
    assert found == dict.fromkeys(range(MANY), KILLS)


@pytest.mark.parametrize("cancelled", [0, LEAST // 2, LEAST])
async def test_a_cancelled_publisher_keeps_nobody_else_s_message_back(nats_server: NatsServer, cancelled: int) -> None:
    async with broker.connect(nats_server.url) as bus, asyncio.timeout(SOON_S):
        sent = [asyncio.create_task(bus.publish(topic(number), b"%d" % number)) for number in range(LEAST + 1)]
        await asyncio.sleep(0)
        sent[cancelled].cancel()
        results = await asyncio.gather(*sent, return_exceptions=True)
        assert [number for number, result in enumerate(results) if isinstance(result, BaseException)] == [cancelled]
        others = {*range(LEAST + 1)} - {cancelled}
        found = await payloads(bus, LEAST)
        # What was cancelled may have been on its way.
        assert {*found} == others or cancelled in found
