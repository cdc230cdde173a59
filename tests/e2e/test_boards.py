"""Two boards on one broker: each is a site of its own, and a job may ask for one of them."""

import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.nats.server import NatsServer
from client_fn.data import shards
from tests.support.brokers import Mosquitto
from tests.support.program import Program, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

JOB = """
name = "one-board"
[data]
dataset = "marks"
clients = 2
[model]
args = { input_size = 4, hidden = 4, classes = 2 }
[training]
local_epochs = 1
[cohort]
clients = 2
deadline_s = 600
where = { site = "board-2" }
[evaluation]
every = 0
[stop]
rounds = 1
"""


@pytest.fixture(params=["nats_server", "mosquitto"])
def url(request: pytest.FixtureRequest) -> str:
    server: NatsServer | Mosquitto = request.getfixturevalue(request.param)
    return server.url


@contextlib.asynccontextmanager
async def board(name: str, folder: Path, url: str) -> AsyncIterator[Program]:
    """Run the bridge of a board with one worker."""
    options = ("--platform", name, "--no-provision", "--workers", "1", "--dir", name)
    program = await Program("bridge", "local", *options, cwd=folder, FEDKEEPER_URL=url).start()
    try:
        await program.wait_for_line("the bridge is up")
        yield program
    finally:
        program.send(signal.SIGTERM)
        await program.wait()


async def sites(folder: Path, url: str) -> dict[str, Any]:
    code, output = await run("sites", "--json", cwd=folder, FEDKEEPER_URL=url)
    assert code == 0, output
    return {site["name"]: site for site in json.loads(output)["sites"]}


async def test_a_job_trains_at_the_site_that_it_asks_for(url: str, tmp_path: Path) -> None:
    rows = ["client,platform,data_loc,label.data"]
    for number in (1, 2, 3, 4):
        shard = tmp_path / f"{number}.safetensors"
        shards.write(str(shard), np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
        rows.append(f"ward-{number},board-{1 + number % 2},{shard},marks")
    (tmp_path / "boards.csv").write_text("\n".join(rows))
    (tmp_path / "job.toml").write_text(JOB)
    code, output = await run("clients", "add", "--from", "boards.csv", cwd=tmp_path, FEDKEEPER_URL=url)
    assert code == 0, output
    server = await Program("server", cwd=tmp_path, FEDKEEPER_URL=url).start()
    async with board("board-1", tmp_path, url):
        async with board("board-2", tmp_path, url):
            code, output = await run("submit", "job.toml", "--wait", cwd=tmp_path, FEDKEEPER_URL=url)
            assert code == 0, output
            _, watched = await run("watch", output.split()[0], "--json", cwd=tmp_path, FEDKEEPER_URL=url)
            events = [json.loads(line) for line in watched.splitlines()]
            (opened,) = [event["event"] for event in events if event["what"] == "round.opened"]
            assert opened["cohort"] == ["ward-1", "ward-3"]
            trained = {event["event"]["platform"] for event in events if event["what"] == "client.training"}
            assert trained == {"board-2"}
            found = await sites(tmp_path, url)
            assert {(name, site["state"], site["clients"]) for name, site in found.items()} == {
                ("board-1", "up", 2),
                ("board-2", "up", 2),
            }
        found = await sites(tmp_path, url)
        assert {name: site["state"] for name, site in found.items()} == {"board-1": "up", "board-2": "gone"}
        assert found["board-2"]["problems"] == ["its bridge ended, or lost its connection, and 2 clients wait for it"]
    server.send(signal.SIGTERM)
    await server.wait()
