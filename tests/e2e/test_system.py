"""A running system: `up` with commands in a second terminal, and each part on its own."""

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
from fedkeeper.exit_codes import ExitCode
from tests.support.brokers import Mosquitto
from tests.support.fakes import soon
from tests.support.paths import REPOSITORY
from tests.support.ports import free_port
from tests.support.program import SHORT, WITHIN_S, Program, digest, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[tuple[Program, str]]:
    """Run `fedkeeper up` in the test's folder; yield it with the URL that it prints."""
    program = await Program("up", "--workers", "2", cwd=tmp_path).start()
    await program.wait_for_line("ready: ")
    [url] = shlex.split((await program.wait_for_line("  export ")).partition("FEDKEEPER_URL=")[2])
    yield program, url
    program.send(signal.SIGINT)
    assert await program.wait() == 130, program.output
    await soon(lambda: not program.processes())


async def test_a_second_terminal_submits_watches_lists_and_cancels(up: tuple[Program, str], tmp_path: Path) -> None:
    program, url = up
    [hint] = [line for line in program.output.splitlines() if "fedkeeper submit" in line]
    command = shlex.split(hint)
    assert command == ["fedkeeper", "submit", "quickstart", "--wait"]

    code, output = await run(*command[1:], *SHORT, cwd=tmp_path)
    assert code == 0, output
    job = output.split()[0]
    assert (tmp_path / "runs" / "latest").resolve().name.endswith(f"-{job}")
    assert (tmp_path / "runs" / "latest" / "model.safetensors").exists()

    # `watch` finds the URL in the folder, and a late watcher sees every event from the start.
    _, watched = await run("watch", job, "--json", cwd=tmp_path)
    kinds = [json.loads(line)["what"] for line in watched.splitlines()]
    assert (kinds[0], kinds[-1]) == ("job.accepted", "job.completed")
    assert kinds.count("round.completed") == 2
    _, lines = await run("watch", job, cwd=tmp_path, FEDKEEPER_URL=url)
    assert "round 2 of 2: accuracy" in lines

    _, long_job = await run("submit", "quickstart", "--set", "stop.rounds=1000", "--url", url, cwd=tmp_path)
    same_id = ("--set", f"id={long_job.strip()}", "--set", "seed=9")
    code, refused = await run("submit", "quickstart", *same_id, cwd=tmp_path)
    assert (code, "another job has this id" in refused) == (ExitCode.JOB_FAILED, True)
    code, _ = await run("cancel", long_job.strip(), cwd=tmp_path)
    assert code == 0
    code, watched = await run("watch", long_job.strip(), cwd=tmp_path)
    assert "cancelled after" in watched
    assert code == ExitCode.JOB_CANCELLED
    _, listed = await run("jobs", cwd=tmp_path)
    assert {line.split()[1] for line in listed.splitlines()[1:]} == {"completed", "cancelled"}
    _, registered = await run("clients", cwd=tmp_path)
    assert registered.count("digits-shards2-c10-s0-") >= 10


async def test_a_killed_system_continues_its_job(tmp_path: Path) -> None:
    """Broker, server, bridge and workers are killed in the middle of a round. After a new `up` the job completes."""
    rounds = (*SHORT, "--set", "stop.rounds=5")
    _, uninterrupted = await run("run", "quickstart", *rounds, "--workers", "1", "--out", "uninterrupted", cwd=tmp_path)
    first = await Program("up", cwd=tmp_path).start()
    address = (await first.wait_for_line("ready: ")).partition("ready: ")[2]
    _, job = await run("submit", "quickstart", *rounds, cwd=tmp_path)
    watcher = await Program("watch", job.strip(), "-v", cwd=tmp_path).start()
    await watcher.wait_for_line("round 2: 10 updates")
    await watcher.wait_for_line("update.counted")
    first.send(signal.SIGKILL)
    await soon(lambda: not first.processes())
    watcher.send(signal.SIGTERM)
    await watcher.wait()
    code, output = await run("jobs", cwd=tmp_path)
    assert (code, "connection refused" in output, "is `fedkeeper up` still running?" in output) == (1, True, True)

    second = await Program("up", cwd=tmp_path).start()
    assert (await second.wait_for_line("ready: ")).endswith(address)
    _, watched = await run("watch", job.strip(), "-v", cwd=tmp_path)
    second.send(signal.SIGTERM)
    await second.wait()
    assert f"model {digest(uninterrupted)[:12]}" in watched
    assert [f"round {n}: 10 updates" in watched for n in range(1, 6)] == [True] * 5


async def test_several_jobs_at_once_one_of_them_the_readme_s_and_no_password(
    up: tuple[Program, str], tmp_path: Path
) -> None:
    program, url = up
    submit = ("submit", "quickstart", "--wait", "--url", url, *SHORT)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(*submit, cwd=tmp_path), name=f"job {i}") for i in range(3)]
        group.create_task(nats_example_of_the_readme(url, tmp_path), name="the README's example")
    results = [task.result() for task in tasks]
    assert [code for code, _ in results] == [0, 0, 0]
    assert len({digest(output) for _, output in results}) == 1
    assert len([*(tmp_path / "runs").glob("*-quickstart-*/model.safetensors")]) == 3
    password = (tmp_path / ".fedkeeper" / "broker" / "password").read_text().strip()
    assert len(password) >= 16
    assert not any(password in said for said in (program.output, url, *(output for _, output in results)))
    assert (tmp_path / ".fedkeeper" / "broker" / "password").stat().st_mode & 0o077 == 0


async def test_without_a_broker_every_command_names_the_option(tmp_path: Path) -> None:
    for command in (("submit", "quickstart"), ("watch",), ("jobs",), ("cancel", "x"), ("clients",), ("server",)):
        code, output = await run(*command, cwd=tmp_path)
        assert (code, "Traceback" in output) == (ExitCode.USAGE, False)
        assert "FEDKEEPER_URL" in output


async def test_a_broker_out_of_reach_is_one_sentence(tmp_path: Path) -> None:
    code, output = await run("jobs", "--url", "nats://127.0.0.1:1", cwd=tmp_path)
    assert (code, "Traceback" in output) == (1, False)
    assert "can't connect to" in output


@pytest.fixture(params=["nats_server", "mosquitto"])
def unused_url(request: pytest.FixtureRequest) -> str:
    """The URL of a broker that no system has used."""
    server: NatsServer | Mosquitto = request.getfixturevalue(request.param)
    return server.url


async def test_commands_that_only_read_create_no_streams(unused_url: str, tmp_path: Path) -> None:
    commands = (("jobs",), ("watch",), ("cancel", "x"), ("clients",), ("clients", "remove", "x"))
    # The second `jobs` shows that the first commands created nothing.
    for command in (*commands, ("jobs",)):
        code, output = await run(*command, "--url", unused_url, cwd=tmp_path)
        assert (code, "Traceback" in output) == (1, False)
        assert "no FedKeeper system has used" in output


async def test_up_moves_a_store_of_0_1_aside(tmp_path: Path) -> None:
    store = tmp_path / ".fedkeeper" / "broker"
    async with NatsServer(store, max_file_bytes=2 << 30) as server:
        client = await nats.connect(
            f"nats://127.0.0.1:{server.port}", user="fedkeeper", password=server.password_file.read_text()
        )
        for name, subjects in old_store.STREAMS.items():
            await client.jetstream().add_stream(name=name, subjects=list(subjects))
        await client.jetstream().publish("fl.rounds.job-1", b"record")
        code, output = await run("jobs", "--url", server.url, cwd=tmp_path)
        assert (code, "holds a store of FedKeeper 0.1, which was left as it is" in output) == (1, True)
        await client.close()
    program = await Program("up", "--workers", "1", cwd=tmp_path).start()
    await program.wait_for_line("ready: ")
    code, listed = await run("jobs", cwd=tmp_path)
    program.send(signal.SIGINT)
    assert await program.wait(20) == 130, program.output
    assert (code, "job-1" in listed) == (0, False)
    assert program.output.count("a store of version 0.1 was put aside") == 1
    assert set(old_store.STREAMS) == {path.name for path in (store.parent / "broker-0.1").glob("jetstream/*/streams/*")}


async def test_a_submission_without_a_server_is_kept(nats_server: NatsServer, tmp_path: Path) -> None:
    code, output = await run("submit", "quickstart", "--url", nats_server.url, cwd=tmp_path)
    assert code == ExitCode.NOT_ANSWERED
    assert "no FL server took job" in output


async def nats_example_of_the_readme(url: str, tmp_path: Path) -> None:
    """Run the README's lines with nats-py unchanged, except for the port and the number of rounds."""
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
    """Run nats-server as docker-compose.yml does, with other paths and another port; yield its URL."""
    password, config = tmp_path / "password", tmp_path / "broker.conf"
    password.write_text('a-"password"-of\\a-person')
    config.write_text((REPOSITORY / "configs" / "broker.conf").read_text().replace("/data", str(tmp_path / "store")))
    service = compose()["services"]["nats"]
    assert "./configs/broker.conf:/etc/nats/broker.conf:ro" in service["volumes"]
    assert "/tmp" in service["tmpfs"]  # noqa: S108 (in a container)
    (command,) = service["command"]
    for old, new in (
        ("$$", "$"),
        ("exec nats-server", f"exec {find_binary()} --addr 127.0.0.1 --port {(port := free_port())}"),
        ("/etc/nats/broker.conf", str(config)),
        ("/run/secrets/password", str(password)),
        ("/tmp/nats.conf", str(tmp_path / "nats.conf")),  # noqa: S108 (in a container)
    ):
        assert old in command
        command = command.replace(old, new)
    process = await asyncio.create_subprocess_exec(*service["entrypoint"], command)
    await soon(lambda: listens(port))
    assert "of\\a-person" not in command_line(process.pid), "everybody may read it there"
    assert (tmp_path / "nats.conf").stat().st_mode & 0o077 == 0
    yield f"nats://fedkeeper@127.0.0.1:{port}?password_file={password}"
    process.kill()
    await process.wait()


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_the_commands_of_docker_compose_train_a_model(composed_broker: str, tmp_path: Path) -> None:
    """Starts each part with its command in docker-compose.yml."""
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
    assert [await part.wait() for part in parts] == [130, 130]
    assert code == 0, output


async def test_stage_writes_one_shard_per_client(tmp_path: Path) -> None:
    code, output = await run("stage", "quickstart", "--to", str(tmp_path / "shards"), cwd=tmp_path)
    assert code == 0, output
    lines = [line.split("\t") for line in output.splitlines()]
    assert len({url for _, _, url in lines}) == 10
    assert sum(int(samples) for _, samples, _ in lines) == 1437
    assert all((tmp_path / "shards" / client / "shard.safetensors").exists() for client, _, _ in lines)
