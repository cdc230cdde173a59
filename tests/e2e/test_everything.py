"""One round over everything: local workers, a site on NATS, and a site on a Mosquitto of its own behind a relay."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from broker.messages.job_sections import Data
from broker.nats.server import NatsServer
from fedkeeper import connect
from fedkeeper.services import provision
from tests.support.brokers import Mosquitto
from tests.support.program import SHORT, Program, digest, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

DATA = Data(clients=6)
PLATFORMS = ("local", "local", "site-a", "site-a", "site-b", "site-b")
JOB = ("quickstart", *SHORT, "--set", "data.clients=6", "--set", "cohort.clients=6")
READY = "is up"


@contextlib.asynccontextmanager
async def running(*arguments: str, ready: str, cwd: Path) -> AsyncIterator[None]:
    """Run a `fedkeeper` command until the end of the block."""
    program = await Program(*arguments, cwd=cwd).start()
    try:
        await program.wait_for_line(ready)
        yield
    finally:
        program.send(signal.SIGTERM)
        await program.wait()


async def register(url: str, folder: Path) -> None:
    """Partition the digits across clients and register each client on its platform."""
    staged = await asyncio.to_thread(
        provision.stage_dataset, DATA, platform="local", shards_at=str(folder / "shards"), data_dir=None
    )
    async with connect(url) as sdk:
        pairs = zip(staged, PLATFORMS, strict=True)
        await sdk.register([msgspec.structs.replace(client, platform=platform) for client, platform in pairs])


async def test_a_round_spans_local_workers_and_two_kinds_of_sites(
    nats_server: NatsServer, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    code, alone = await run("run", *JOB, cwd=tmp_path)
    assert code == 0, alone
    relay = tmp_path / "relay.toml"
    relay.write_text(f'name = "b"\nbackbone = "{nats_server.url}"\nsite = "{mosquitto.url}"\nplatforms = ["site-b"]\n')
    await register(nats_server.url, tmp_path)
    local = ("bridge", "local", "--workers", "1", "--no-provision")
    async with (
        running("server", "--url", nats_server.url, ready="takes jobs", cwd=tmp_path),
        running(*local, "--url", nats_server.url, ready=READY, cwd=tmp_path),
        running(*local, "--platform", "site-a", "--url", nats_server.url, ready=READY, cwd=tmp_path),
        running("bridge", "relay", "--config", str(relay), ready=READY, cwd=tmp_path),
        running(*local, "--platform", "site-b", "--url", mosquitto.url, ready=READY, cwd=tmp_path),
    ):
        code, output = await run("submit", *JOB, "--wait", "-v", "--url", nats_server.url, cwd=tmp_path)
        assert code == 0, output
        _, clients = await run("clients", "--url", nats_server.url, cwd=tmp_path)
    assert digest(output) == digest(alone)
    for platform in set(PLATFORMS):
        assert f"trains on {platform} as" in output
    assert [line.split()[1:3] for line in clients.splitlines()[1:]] == [
        [platform, "succeeded"] for platform in PLATFORMS
    ]
