"""Brokers for tests: a real nats-server or mosquitto for each test that asks for one, ended with the test."""

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from broker.nats.server import USER, NatsServer
from tests.support.brokers import STORE_BYTES, Mosquitto
from tests.support.ports import free_port

# Tests fork, and gRPC's threads may be at work by then: with its own handlers, one child in twenty aborts before it
# becomes another program. Read when gRPC is imported, so by none of the tests yet.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# Tests run side by side: with a thread for each core in every process, torch's threads wait for each other most of the
# time. Read when torch is imported, by this process and by those that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def logs_as_at_the_start() -> None:
    """Let no test print logs because an earlier one ran a command in this process, which configures them."""
    structlog.reset_defaults()


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A nats-server on a free loopback port. It fails the test if it can't be had."""
    server = NatsServer(tmp_path / "nats", max_file_bytes=STORE_BYTES)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
def memory_url() -> str:
    """A broker in this process that no other test knows."""
    return f"memory://{uuid.uuid4()}"


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A mosquitto that keeps its store. It fails the test if it can't be had."""
    server = Mosquitto(tmp_path / "mosquitto")
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
def mosquitto_url(mosquitto: Mosquitto) -> str:
    return mosquitto.url


@pytest.fixture
async def nats_mqtt_url(tmp_path: Path) -> AsyncIterator[str]:
    """The MQTT listener of a nats-server."""
    port = free_port()
    # What was on its way to a session that just ended comes again after this time; 30 s by default.
    settings = f'mqtt {{ host: "127.0.0.1", port: {port}, ack_wait: "1s" }}'
    server = NatsServer(tmp_path / "nats-mqtt", max_file_bytes=STORE_BYTES, settings=settings)
    await server.start()
    yield f"mqtt://{USER}@127.0.0.1:{port}?password_file={server.password_file}"
    await server.kill()
