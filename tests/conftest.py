"""Brokers for tests: a real nats-server for each test that asks for one, ended with the test."""

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.embedded import NatsServer

STORE_BYTES = 2 << 30

# Tests fork, and gRPC's threads may be at work by then: with its own handlers, one child in twenty aborts before it
# becomes another program. Read when gRPC is imported, so by none of the tests yet.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


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
