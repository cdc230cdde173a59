"""Why no connection could be opened, on real servers: one sentence with the remedy, within seconds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import broker
from broker.errors import ConnectFailed
from broker.nats.server import NatsServer
from tests.support.brokers import STORE_BYTES, Mosquitto
from tests.support.certificates import certificates
from tests.support.ports import free_port

WITHIN_S = 60.0
"""For a loaded machine; the limits that the errors name are 2 to 5 s."""

SECURE = {"nats": "tls", "mqtt": "mqtts"}

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["nats", "mqtt"])
def scheme(request: pytest.FixtureRequest) -> str:
    """The protocol under test."""
    name: str = request.param
    return name


@pytest.fixture
async def port(scheme: str, tmp_path: Path) -> AsyncIterator[int]:
    """A server that knows the user `fedkeeper`."""
    async with server(scheme, tmp_path) as port:
        yield port


@contextlib.asynccontextmanager
async def server(scheme: str, folder: Path, certificate: Path | None = None) -> AsyncIterator[int]:
    """Run nats-server or Mosquitto with a user, and with TLS if it has a certificate; yield its port."""
    if scheme == "nats":
        names = f'cert_file: "{certificate}/server.pem", key_file: "{certificate}/server.key"'
        settings = f"tls {{ {names} }}" if certificate else ""
        async with NatsServer(folder / "nats", max_file_bytes=STORE_BYTES, settings=settings) as nats:
            yield nats.port
        return
    passwords = folder / "passwords"
    maker = await asyncio.create_subprocess_exec("mosquitto_passwd", "-c", "-b", passwords, "fedkeeper", "right")
    assert await maker.wait() == 0
    tls = f"certfile {certificate}/server.pem\nkeyfile {certificate}/server.key" if certificate else ""
    mosquitto = Mosquitto(folder / "mosquitto", f"password_file {passwords}\n{tls}", anonymous=False)
    await mosquitto.start()
    try:
        yield mosquitto.port
    finally:
        await mosquitto.kill()


@contextlib.asynccontextmanager
async def something_else(serve: Serve) -> AsyncIterator[int]:
    """Run a server of another protocol until its clients have gone; yield its port."""
    clients = set[asyncio.Task[None]]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        await asyncio.gather(*clients)


async def speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await reader.read()


async def is_silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hangs_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


async def reason(url: str) -> str:
    """Return why an address can't be connected to."""
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(ConnectFailed) as failed:
            async with broker.connect(url):
                pass
    assert "wrong-password" not in f"{failed.value}{failed.value.__cause__!r}"
    return failed.value.reason


async def test_nobody_listens(scheme: str) -> None:
    port = free_port()
    for host in ("127.0.0.1", "localhost"):
        said = await reason(f"{scheme}://{host}:{port}")
        assert said == f"connection refused: nothing listens on port {port} there"


@pytest.mark.parametrize("host", ["broker.invalid", f"{'a' * 70}.invalid"])
async def test_the_host_has_no_address(scheme: str, host: str) -> None:
    assert f"the host name '{host}' is unknown" in await reason(f"{scheme}://{host}")


async def test_the_login_is_missing_or_wrong(scheme: str, port: int) -> None:
    assert await reason(f"{scheme}://fedkeeper:wrong-password@127.0.0.1:{port}") == "wrong user or password"
    missing = f"it asks for a user and a password: {scheme}://USER@HOST?password_file=PATH"
    assert await reason(f"{scheme}://127.0.0.1:{port}") == missing


async def test_the_server_has_no_tls(scheme: str, port: int) -> None:
    said = await reason(f"{SECURE[scheme]}://fedkeeper:wrong-password@127.0.0.1:{port}")
    assert said.startswith("no TLS there")
    assert f"use {scheme}://" in said


async def test_the_certificate_is_not_trusted_or_of_another_host(scheme: str, tmp_path: Path) -> None:
    names = {"here": "IP:127.0.0.1", "elsewhere": "DNS:broker.example"}
    for folder, name in names.items():
        (tmp_path / folder).mkdir()
        await certificates(tmp_path / folder, name)
    async with (
        server(scheme, tmp_path / "here", tmp_path / "here") as here,
        server(scheme, tmp_path / "elsewhere", tmp_path / "elsewhere") as elsewhere,
    ):
        secure = f"{SECURE[scheme]}://fedkeeper:wrong-password@127.0.0.1"
        said = await reason(f"{secure}:{here}")
        assert said.startswith("its TLS certificate is not trusted")
        assert said.endswith("?ca_file=PATH")
        said = await reason(f"{secure}:{here}?ca_file={tmp_path}/elsewhere/ca.pem")
        assert said.endswith(f"{tmp_path}/elsewhere/ca.pem is not the authority that signed it")
        said = await reason(f"{secure}:{elsewhere}?ca_file={tmp_path}/elsewhere/ca.pem")
        assert "its TLS certificate is not for '127.0.0.1'" in said
        assert await reason(f"{secure}:{here}?ca_file={tmp_path}/here/ca.pem") == "wrong user or password"
        assert f"{SECURE[scheme]}://" in await reason(f"{scheme}://127.0.0.1:{here}")


@pytest.mark.parametrize("serve", [speaks_http, speaks_first, hangs_up, is_silent])
async def test_something_else_answers(scheme: str, serve: Serve) -> None:
    async with something_else(serve) as port:
        said = await reason(f"{scheme}://127.0.0.1:{port}")
    assert {"nats": "no NATS server", "mqtt": "no MQTT broker"}[scheme] in said


async def test_a_broker_of_the_other_protocol_answers(scheme: str, port: int) -> None:
    other = {"nats": "mqtt", "mqtt": "nats"}[scheme]
    assert f"address starts with {scheme}://" in await reason(f"{other}://127.0.0.1:{port}")
