"""A running system: `up`, and what a second terminal does with it; and each part by itself."""

import asyncio
import json
import re
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
import yaml

from broker.nats import old_store
from broker.nats.server import NatsServer, find_binary
from tests.support.brokers import Mosquitto
from tests.support.fakes import soon
from tests.support.paths import REPOSITORY
from tests.support.program import SHORT, WITHIN_S, Program, digest, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[tuple[Program, str]]:
    """`fedkeeper up` in the test's folder, and the URL that it prints."""
    program = await Program("up", "--workers", "2", cwd=tmp_path).start()
    url = (await program.says("ready: ")).partition("ready: ")[2]
    yield program, url
    program.send(signal.SIGINT)
    assert await program.ends() == 130, program.output
    await soon(lambda: not program.processes())


async def test_a_second_terminal_submits_watches_lists_and_cancels(up: tuple[Program, str], tmp_path: Path) -> None:
    program, url = up
    ready_made = shlex.split(await program.says("fedkeeper submit"))
    assert ready_made[:4] == ["fedkeeper", "submit", "quickstart", "--wait"]

    code, output = await run(*ready_made[1:], *SHORT, cwd=tmp_path)
    assert code == 0, output
    job = output.split()[0]
    assert (tmp_path / "runs" / job / "model.safetensors").exists()

    # The URL is found in the folder, and a late watcher sees everything from the start.
    _, watched = await run("watch", job, "--json", cwd=tmp_path)
    whats = [json.loads(line)["what"] for line in watched.splitlines()]
    assert (whats[0], whats[-1]) == ("job.accepted", "job.completed")
    assert whats.count("round.completed") == 2
    _, shown = await run("watch", job, cwd=tmp_path, FEDKEEPER_URL=url)
    assert "round 2: 10 updates" in shown

    _, long_job = await run("submit", "quickstart", "--set", "stop.rounds=1000", "--url", url, cwd=tmp_path)
    code, _ = await run("cancel", long_job.strip(), cwd=tmp_path)
    assert code == 0
    code, watched = await run("watch", long_job.strip(), cwd=tmp_path)
    assert "cancelled after" in watched
    assert code == 1
    _, listed = await run("jobs", cwd=tmp_path)
    assert {line.split()[1] for line in listed.splitlines()[1:]} == {"completed", "cancelled"}
    _, registered = await run("clients", cwd=tmp_path)
    assert registered.count("digits-shards2-c10-s0-") >= 10


async def test_a_system_that_is_killed_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Broker, server, bridge and workers die at once, in the middle of a round; `up` again, and the job ends."""
    rounds = (*SHORT, "--set", "stop.rounds=5")
    _, undisturbed = await run("run", "quickstart", *rounds, "--out", "undisturbed", cwd=tmp_path)
    first = await Program("up", cwd=tmp_path).start()
    await first.says("ready: ")
    _, job = await run("submit", "quickstart", *rounds, cwd=tmp_path)
    watcher = await Program("watch", job.strip(), cwd=tmp_path).start()
    await watcher.says("round 2: 10 updates")
    await watcher.says("update.counted")
    first.send(signal.SIGKILL)
    await soon(lambda: not first.processes())
    watcher.send(signal.SIGTERM)
    await watcher.ends()

    second = await Program("up", cwd=tmp_path).start()
    await second.says("ready: ")
    _, watched = await run("watch", job.strip(), cwd=tmp_path)
    second.send(signal.SIGTERM)
    await second.ends()
    assert f"model {digest(undisturbed)[:12]}" in watched
    assert [f"round {n}: 10 updates" in watched for n in range(1, 6)] == [True] * 5


async def test_several_jobs_at_once(up: tuple[Program, str], tmp_path: Path) -> None:
    _, url = up
    submit = ("submit", "quickstart", "--wait", "--url", url, *SHORT)
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(run(*submit, cwd=tmp_path), name=f"job {i}") for i in range(3)]
    results = [wait.result() for wait in waits]
    assert [code for code, _ in results] == [0, 0, 0]
    models = {(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "runs").iterdir()}
    assert len(models) == 1


async def test_the_password_is_never_shown(up: tuple[Program, str], tmp_path: Path) -> None:
    program, url = up
    password = (tmp_path / ".fedkeeper" / "broker" / "password").read_text().strip()
    _, output = await run("submit", "quickstart", "--wait", "--url", url, *SHORT, cwd=tmp_path)
    assert len(password) >= 16
    assert password not in program.output + output + url
    assert (tmp_path / ".fedkeeper" / "broker" / "password").stat().st_mode & 0o077 == 0


async def test_without_a_broker_every_command_says_what_to_do(tmp_path: Path) -> None:
    for command in (("submit", "quickstart"), ("watch",), ("jobs",), ("cancel", "x"), ("clients",), ("server",)):
        code, output = await run(*command, cwd=tmp_path)
        assert (code, "Traceback" in output) == (1, False)
        assert "FEDKEEPER_URL" in output


async def test_a_broker_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    code, output = await run("jobs", "--url", "nats://127.0.0.1:1", cwd=tmp_path)
    assert (code, "Traceback" in output) == (1, False)
    assert "can't connect to" in output


@pytest.fixture(params=["nats_server", "mosquitto"])
def unused_url(request: pytest.FixtureRequest) -> str:
    """A broker that no system has used."""
    server: NatsServer | Mosquitto = request.getfixturevalue(request.param)
    return server.url


async def test_commands_that_only_read_make_no_broker_ready(unused_url: str, tmp_path: Path) -> None:
    commands = (("jobs",), ("watch",), ("cancel", "x"), ("clients",), ("clients", "remove", "x"))
    # Nor would the second one find what the first one made.
    for command in (*commands, ("jobs",)):
        code, output = await run(*command, "--url", unused_url, cwd=tmp_path)
        assert (code, "Traceback" in output) == (1, False)
        assert "no FedKeeper system has used" in output


async def test_up_puts_a_store_of_0_1_aside(tmp_path: Path) -> None:
    store = tmp_path / ".fedkeeper" / "broker"
    async with NatsServer(store, max_file_bytes=2 << 30) as server:
        client = await nats.connect(
            f"nats://127.0.0.1:{server.port}", user="fedkeeper", password=server.password_file.read_text()
        )
        for name, subjects in old_store.STREAMS.items():
            await client.jetstream().add_stream(name=name, subjects=list(subjects))
        await client.jetstream().publish("fl.rounds.job-1", b"theirs")
        code, output = await run("jobs", "--url", server.url, cwd=tmp_path)
        assert (code, "holds a store of FedKeeper 0.1, which was left as it is" in output) == (1, True)
        await client.close()
    program = await Program("up", "--workers", "1", cwd=tmp_path).start()
    await program.says("ready: ")
    code, listed = await run("jobs", cwd=tmp_path)
    program.send(signal.SIGINT)
    assert await program.ends(20) == 130, program.output
    assert (code, "job-1" in listed) == (0, False)
    assert program.output.count("a store of version 0.1 was put aside") == 1
    assert set(old_store.STREAMS) == {path.name for path in (store.parent / "broker-0.1").glob("jetstream/*/streams/*")}


async def test_a_submission_without_a_server_is_kept(nats_server: NatsServer, tmp_path: Path) -> None:
    code, output = await run("submit", "quickstart", "--url", nats_server.url, cwd=tmp_path)
    assert code == 0
    assert "no FL server took job" in output


async def test_the_nats_example_of_the_readme(up: tuple[Program, str], tmp_path: Path) -> None:
    """Ten lines with nats-py alone, as they stand but for the port."""
    _, url = up
    (example,) = re.findall(
        r"```python\n(import asyncio, json, nats\n.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL
    )
    port = url.partition("?")[0].rpartition(":")[2]
    file = tmp_path / "example.py"
    file.write_text(
        example.replace("4222", port).replace('{"name": "mine"}', '{"name": "mine", "stop": {"rounds": 1}}')
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", file, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(WITHIN_S):
        async for line in process.stdout:
            lines.append(line.decode())
            if ".job.completed" in lines[-1]:
                break
    process.kill()
    await process.communicate()
    job = json.loads(lines[0].removeprefix("b'").rstrip("'\n"))["job"]
    assert lines[1].startswith(f"fl.progress.{job}.job.accepted")


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return parsed


@pytest.fixture
async def composed_broker(tmp_path: Path) -> AsyncIterator[str]:
    """nats-server as docker-compose.yml starts it, but for its paths and its port; yields its URL."""
    password, config = tmp_path / "password", tmp_path / "broker.conf"
    password.write_text("a-password-of-a-person")
    config.write_text((REPOSITORY / "configs" / "broker.conf").read_text().replace("/data", str(tmp_path / "store")))
    service = compose()["services"]["nats"]
    assert "./configs/broker.conf:/etc/nats/broker.conf:ro" in service["volumes"]
    (command,) = service["command"]
    for inside, here in (
        ("$$", "$"),
        ("exec nats-server", f"exec {find_binary()} --addr 127.0.0.1 --port {(port := free_port())}"),
        ("/etc/nats/broker.conf", str(config)),
        ("/run/secrets/password", str(password)),
    ):
        assert inside in command
        command = command.replace(inside, here)
    process = await asyncio.create_subprocess_exec(*service["entrypoint"], command)
    await soon(lambda: listens(port))
    yield f"nats://fedkeeper@127.0.0.1:{port}?password_file={password}"
    process.kill()
    await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_the_commands_of_docker_compose_train_a_model(composed_broker: str, tmp_path: Path) -> None:
    """The parts by themselves, started by the very commands of docker-compose.yml."""
    services = compose()["services"]
    assert set(services) == {"nats", "server", "bridge"}
    parts = []
    for name in ("server", "bridge"):
        program, *arguments = (part.replace("/data", str(tmp_path / "data")) for part in services[name]["command"])
        assert program == "fedkeeper"
        parts.append(await Program(*arguments, cwd=tmp_path, FEDKEEPER_URL=composed_broker).start())
    code, output = await run("submit", "quickstart", "--wait", "--url", composed_broker, *SHORT, cwd=tmp_path)
    for part in parts:
        part.send(signal.SIGTERM)
    assert [await part.ends() for part in parts] == [130, 130]
    assert code == 0, output


async def test_stage_gives_each_client_a_shard_of_its_own(tmp_path: Path) -> None:
    code, output = await run("stage", "quickstart", "--to", str(tmp_path / "shards"), cwd=tmp_path)
    assert code == 0, output
    lines = [line.split("\t") for line in output.splitlines()]
    assert len({where for _, _, where in lines}) == 10
    assert sum(int(samples) for _, samples, _ in lines) == 1437
    assert all((tmp_path / "shards" / client / "shard.safetensors").exists() for client, _, _ in lines)
