"""The whole system on a Mosquitto alone."""

from pathlib import Path

import pytest

from tests.support.brokers import Mosquitto
from tests.support.program import SHORT, digest, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]


async def test_the_model_is_the_same_on_mosquitto_as_on_nats(mosquitto: Mosquitto, tmp_path: Path) -> None:
    code, on_nats = await run("run", "quickstart", *SHORT, "--out", "nats", "--workers", "1", cwd=tmp_path)
    assert code == 0, on_nats
    url = ("--url", mosquitto.url)
    code, on_mqtt = await run("run", "quickstart", *SHORT, "--out", "mqtt", "--workers", "1", *url, cwd=tmp_path)
    assert code == 0, on_mqtt
    assert digest(on_mqtt) == digest(on_nats)

    _, jobs = await run("jobs", "--url", mosquitto.url, cwd=tmp_path)
    assert "completed" in jobs
    _, clients = await run("clients", "--url", mosquitto.url, cwd=tmp_path)
    assert clients.count("digits-shards2-c10-s0-") >= 10
