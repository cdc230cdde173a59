"""The environment's proxy is never asked for a platform on this machine, so it never sees the credentials."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridges import gcf, openfaas, openwhisk
from bridges.gcf import api as gcf_api
from bridges.openfaas import api as openfaas_api
from bridges.openwhisk import api as openwhisk_api
from bridges.secrets import SecretStore


@contextlib.asynccontextmanager
async def http_server(requests: list[bytes]) -> AsyncIterator[str]:
    """Run a server that notes each request; yield its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def connected(platform: str, address: str, secrets: SecretStore) -> Any:
    """Connect to a platform's API."""
    if platform == "openfaas":
        settings = openfaas.Settings(gateway=address, username="user", password="key")  # noqa: S106 (its name)
        return openfaas_api.connected(settings, secrets)
    if platform == "openwhisk":
        return openwhisk_api.connected(openwhisk.Settings(host=address, auth="key"), secrets)
    return gcf_api.connected(gcf.Settings(project="p", api=address), None)


@pytest.mark.parametrize("platform", ["openfaas", "openwhisk", "gcf"])
async def test_a_platform_on_this_machine_is_called_directly(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[bytes] = []
    proxied: list[bytes] = []
    (tmp_path / "key").write_text("user:s3cret", encoding="utf-8")
    async with http_server(called) as address, http_server(proxied) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        async with connected(platform, address, SecretStore(tmp_path)) as api:
            client = api.http if hasattr(api, "http") else api._http
            await client.get("/anything")
    assert (len(called), proxied) == (1, [])
