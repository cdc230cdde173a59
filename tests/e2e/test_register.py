"""The commands that edit the client register, and the errors of a deployment."""

from pathlib import Path

import pytest

from broker.nats.server import NatsServer
from tests.support.program import run

FABRIC = """
name = "lonely"
[data]
deal = { dataset = "mine", clients = 2 }
[platforms.openfaas]
clients = 2
image = "client:1"
"""


async def cli(nats: NatsServer, folder: Path, *arguments: str, code: int = 0) -> str:
    exit_code, output = await run(*arguments, cwd=folder, FEDKEEPER_URL=nats.url)
    assert exit_code == code, output
    return output


@pytest.mark.slow
async def test_clients_are_added_paused_listed_and_removed(nats_server: NatsServer, tmp_path: Path) -> None:
    added = await cli(
        nats_server, tmp_path, "clients", "add", "ward-7", "--platform", "openfaas", "--label", "data=xray"
    )
    assert added == "registered ward-7\n"
    assert "ward-7 is paused" in await cli(nats_server, tmp_path, "clients", "pause", "ward-7")
    line = (await cli(nats_server, tmp_path, "clients")).splitlines()[1].split()
    assert line[:6] == ["ward-7", "openfaas", "paused", "0", "0", "0"]
    assert line[-1] == "data=xray"
    assert "not paused" in await cli(nats_server, tmp_path, "clients", "pause", "--resume", "ward-7")
    assert "registered" in await cli(nats_server, tmp_path, "clients")
    assert await cli(nats_server, tmp_path, "clients", "remove", "ward-7") == "removed ward-7\n"
    assert "ward-7" not in await cli(nats_server, tmp_path, "clients")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pause", "nobody"), "no client 'nobody' is registered"),
        (("remove", "nobody"), "no client 'nobody' is registered"),
        (("add", "Ward 7", "--platform", "openfaas"), "use 1 to 40 of a-z"),
        (("add", "ward-7", "--platform", "openfaas", "--label", "xray"), "write a label as KEY=VALUE"),
    ],
)
async def test_a_mistake_is_one_sentence(
    nats_server: NatsServer, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    # Commands that only read need a broker that a system has used.
    await cli(nats_server, tmp_path, "clients", "add", "ward-1", "--platform", "openfaas")
    assert message in await cli(nats_server, tmp_path, "clients", *arguments, code=1)


async def test_a_deployment_file_with_a_mistake_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(FABRIC.replace("clients = 2\nimage", "client = 2\nimage"))
    code, output = await run("deploy", str(file), "--url", "nats://127.0.0.1:1", cwd=tmp_path)
    assert code == 1
    assert "client" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('gateway = "http://127.0.0.1:8080"\nport = 1', "port"),
        ("gateway = 1", "gateway"),
        ("gateway", "TOML"),
    ],
)
async def test_a_bridges_file_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    code, output = await run("bridge", "openfaas", "--config", str(file), "--url", "nats://127.0.0.1:1", cwd=tmp_path)
    assert code == 1
    assert message in output
    assert "Traceback" not in output
