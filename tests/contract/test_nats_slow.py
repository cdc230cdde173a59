"""Large messages on a link that is much slower than our patience."""

import asyncio
import os

import pytest

import broker
from broker import topics
from broker.errors import Disconnected
from broker.nats import connection as nats_connection
from broker.nats.server import NatsServer
from emulators.wire import wire_to

MODEL = topics.model("job", "00")
UPDATE = topics.update("job", 1, "client-1", 1)


@pytest.mark.slow
async def test_weights_get_through_in_both_directions(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = os.urandom(3 << 20)
    async with broker.connect(nats_server.url) as near:
        await near.put(MODEL, payload)
    monkeypatch.setattr(nats_connection, "REQUEST_S", 2.0)
    monkeypatch.setattr(nats_connection, "PING_S", 1.0)
    async with wire_to(nats_server.port) as wire:
        slow = nats_server.url.replace(f":{nats_server.port}", f":{wire.port}")
        async with broker.connect(slow) as far, asyncio.timeout(300):
            wire.bytes_per_s = 1_000_000
            wire.up = wire.down = 0
            await far.publish(UPDATE, payload)
            value = await far.get(MODEL)
            assert value is not None
            assert value.payload == payload
    assert wire.up < 1.5 * len(payload), "it was not sent again and again"
    assert wire.down < 1.5 * len(payload)


async def test_a_server_that_is_frozen_is_still_noticed(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_connection, "REQUEST_S", 0.5)
    async with wire_to(nats_server.port) as wire:
        slow = nats_server.url.replace(f":{nats_server.port}", f":{wire.port}")
        async with broker.connect(slow) as far:
            wire.bytes_per_s = 1
            connection = await far._link.connection()  # type: ignore[attr-defined]
            begun_s = asyncio.get_running_loop().time()
            with pytest.raises(Disconnected, match="no answer within"):
                await connection.request("fl.updates.job.1.client-1.1", os.urandom(1 << 20))
            assert asyncio.get_running_loop().time() - begun_s < 60
