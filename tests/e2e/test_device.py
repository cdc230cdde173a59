"""A machine without the device that its settings promise: the command says so and takes no task."""

from pathlib import Path

import pytest

import broker
from broker import topics
from broker.nats.server import NatsServer
from tests.support.program import run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

SENTENCE = "could not start a worker: FEDKEEPER_DEVICE: 'cuda:99' can't be used here: "


async def test_a_bridge_without_its_device_ends_before_it_announces_itself(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    command = ("bridge", "local", "--platform", "board-7", "--device", "cuda:99", "--no-provision", "--workers", "1")
    code, output = await run(*command, "--url", nats_server.url, cwd=tmp_path)
    assert code == 1
    assert f"error: board-7 {SENTENCE}" in output
    async with broker.connect(nats_server.url) as bus:
        assert await bus.snapshot(topics.presence(topics.ANY, topics.ANY)) == {}


async def test_a_run_without_its_device_ends_before_the_job_is_submitted(tmp_path: Path) -> None:
    code, output = await run("run", "quickstart", "--device", "cuda:99", "--workers", "1", cwd=tmp_path)
    assert code == 1
    assert f"error: local {SENTENCE}" in output
    assert "round 1" not in output
