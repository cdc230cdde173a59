"""An emulator of OpenFaaS Community Edition: gateway, provider, watchdog and template, with real function processes.

`python -m emulators.openfaas.gateway --image NAME=FOLDER` prints `ready <url>` and serves until SIGTERM.
"""

import argparse
import asyncio
import contextlib
import hmac
import json
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from emulators.openfaas.provider import NAMESPACE, REPLICAS, Provider, Refused
from emulators.openfaas.watchdog import Response, Watchdog

BODY_BYTES: Final = 1 << 30
"""The real gateway has no limit."""

_SHUTDOWN_S: Final = 0.01
"""Short, so that the gateway cuts calls in progress. Zero would mean no limit."""

_STREAMED_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Call:
    """A call of a function as the gateway received it.

    Attributes:
        function: name of the function, with `.namespace` if the caller gave one.
        method: HTTP method.
        path: path below the function.
        headers: HTTP headers.
    """

    function: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Gateway:
    """The gateway, with switches for tests. Use it as `async with running(...) as gateway`.

    Attributes:
        provider: stores and runs the functions; it has switches too.
        username: user name for `/system`.
        password: password for `/system`; empty for no basic auth.
        scale_from_zero: whether an unknown function gives a 404 of the gateway, or else a 503 of the provider.
        upstream_timeout_s: time limit of a function's response, in seconds.
        prometheus: whether Prometheus is reachable. If not, a list of functions ends with a closed connection.
        provider_away: whether the gateway can't reach the provider for calls of functions.
        unreachable_s: if set, the provider dials an address whose container is gone, and says so after this time in
            seconds.
        dropped: number of lists that ended with a closed connection.
        calls: every call of a function so far.
        port: port of the gateway.
    """

    provider: Provider
    username: str = "admin"
    password: str = ""
    scale_from_zero: bool = False
    upstream_timeout_s: float = 60.0
    prometheus: bool = True
    provider_away: bool = False
    unreachable_s: float | None = None
    dropped: int = 0
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Address of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    async def up(self) -> None:
        """Listen, on the same port as before."""
        runner = web.AppRunner(self._application(), shutdown_timeout=_SHUTDOWN_S, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        self._runner = runner

    async def down(self) -> None:
        """Close the port and every connection. The functions go on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def watchdog(self, name: str) -> Watchdog:
        """Return the container of a function."""
        return self.provider.functions[name].watchdog

    def refuse(self, name: str, calls: int) -> None:
        """Answer the next calls of a function with 429.

        Args:
            name: name of the function.
            calls: number of calls.
        """
        self.watchdog(name).refusals = calls

    def hang(self, name: str, calls: int) -> None:
        """Let the next calls of a function time out.

        Args:
            name: name of the function.
            calls: number of calls.
        """
        self.watchdog(name).hangs = calls

    async def vanish(self, name: str) -> None:
        """Delete a function, as another user would."""
        await self.provider.delete({"functionName": name}, "")

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES)
        add = app.router.add_route
        for method in ("POST", "PUT", "DELETE", "GET"):
            add(method, "/system/functions", self._system(self._functions))
            add(method, "/system/secrets", self._system(self._secrets))
        add("GET", "/system/function/{name}", self._system(self._status))
        add("POST", "/system/scale-function/{name}", self._system(self._scale))
        add("GET", "/system/info", self._system(self._info))
        add("GET", "/system/namespaces", self._system(self._namespaces))
        add("GET", "/healthz", self._healthy)
        add("*", "/function/{name:[^/]+}{path:.*}", self._call)
        return app

    def _system(self, handle: Callable[[web.Request], Awaitable[Response]]) -> Callable[..., Awaitable[web.Response]]:
        """Wrap a handler of `/system`: check the credentials, and turn Refused into a response."""

        async def handler(request: web.Request) -> web.Response:
            credentials = aiohttp.encode_basic_auth(self.username, self.password)
            sent = request.headers.get("Authorization", "")
            if self.password and not hmac.compare_digest(sent, credentials):
                challenge = {"WWW-Authenticate": 'Basic realm="Restricted"'}
                return web.Response(status=401, text="invalid credentials", headers=challenge)
            try:
                response = await handle(request)
            except Refused as exc:
                response = exc.response
            return web.Response(status=response.status, body=response.body, headers=response.headers)

        return handler

    async def _functions(self, request: web.Request) -> Response:
        match request.method:
            case "POST":
                return await self.provider.deploy(await _json(request))
            case "PUT":
                return await self.provider.update(await _json(request))
            case "DELETE":
                return await self.provider.delete(await _json(request), request.query.get("namespace", ""))
        if request.query.get("namespace", NAMESPACE) not in ("", NAMESPACE):
            return _as_json([])
        statuses = [deployed.status() for deployed in self.provider.functions.values()]
        if statuses and not self.prometheus and request.transport is not None:
            # The real gateway panics here, and closes the connection without a response.
            self.dropped += 1
            request.transport.abort()
        return _as_json(statuses)

    async def _secrets(self, request: web.Request) -> Response:
        if request.method == "GET":
            return _as_json([{"name": name, "namespace": NAMESPACE} for name in self.provider.secrets])
        return await self.provider.change_secret(request.method, await _json(request))

    async def _status(self, request: web.Request) -> Response:
        if request.query.get("namespace", NAMESPACE) not in ("", NAMESPACE):
            raise Refused(404)
        return _as_json(self.provider.status(request.match_info["name"]))

    async def _scale(self, request: web.Request) -> Response:
        replicas = int((await _json(request)).get("replicas", 1))
        return self.provider.scale(request.match_info["name"], min(max(replicas, 1), REPLICAS))

    async def _info(self, _: web.Request) -> Response:
        return _as_json({"provider": {"provider": self.provider.kind, "orchestration": "emulated"}, "arch": "x86_64"})

    async def _namespaces(self, _: web.Request) -> Response:
        return _as_json([NAMESPACE] if self.provider.kind == "faas-netes" else None)

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _call(self, request: web.Request) -> web.Response:
        start_s, caller_id = time.time(), request.headers.get("X-Call-Id")
        call_id = caller_id or str(uuid.uuid4())
        name, _, namespace = request.match_info["name"].partition(".")
        path = request.match_info["path"] or "/"
        self.calls.append(Call(request.match_info["name"], request.method, path, dict(request.headers)))
        headers = CIMultiDict({**request.headers, "X-Call-Id": call_id, "X-Start-Time": str(int(start_s * 1e9))})
        added = {"X-Served-By": "openfaas-ce/emulated", "X-Start-Time": headers["X-Start-Time"]}
        if caller_id is None:
            added["X-Call-Id"] = call_id
        deployed = self.provider.functions.get(name) if namespace in ("", NAMESPACE) else None
        if deployed is None and self.scale_from_zero:
            text = f"error finding function {name}.{NAMESPACE}: not found"
            return web.Response(status=404, text=text, headers=added)
        try:
            async with asyncio.timeout(self.upstream_timeout_s):
                response = await self._forward(request, name, path, headers)
        except TimeoutError:
            response = Response(502)
        return web.Response(status=response.status, body=response.body, headers={**response.headers, **added})

    async def _forward(self, request: web.Request, name: str, path: str, headers: CIMultiDict[str]) -> Response:
        if self.provider_away:
            return Response(502)
        deployed = self.provider.functions.get(name)
        if deployed is None or not deployed.is_available:
            internal = {"X-OpenFaaS-Internal": "proxy", "Content-Type": "text/plain"}
            return Response(503, f"No endpoints available for: {name}.\n".encode(), internal)
        if self.unreachable_s is not None:
            await asyncio.sleep(self.unreachable_s)
            internal = {"X-OpenFaaS-Internal": "proxy", "Content-Type": "text/plain"}
            return Response(500, f"Can't reach service for: {name}.\n".encode(), internal)
        deployed.invocations += 1
        query = f"?{request.query_string}" if request.query_string else ""
        body = request.content.iter_chunked(_STREAMED_BYTES)
        return await deployed.watchdog.call(request.method, path + query, headers, body)


@contextlib.asynccontextmanager
async def running(
    images: dict[str, Path], *, kind: Literal["faas-netes", "faasd"] = "faas-netes", port: int = 0, **switches: Any
) -> AsyncIterator[Gateway]:
    """Run an OpenFaaS until the end of the block.

    Args:
        images: folder with the function's code, by name of the image.
        kind: provider behind the gateway.
        port: port on the loopback address; 0 for a free one.
        switches: attributes of `Gateway`.
    """
    limits = aiohttp.TCPConnector(limit=0)
    with tempfile.TemporaryDirectory(prefix="openfaas-") as folder:
        async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(None)) as http:
            gateway = Gateway(Provider(kind, images, Path(folder), http), port=port, **switches)
            await gateway.up()
            try:
                yield gateway
            finally:
                await gateway.down()
                await gateway.provider.close()


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError as exc:
        raise Refused(400, str(exc)) from exc
    if not isinstance(body, dict):
        raise Refused(400, "no object")
    return body


def _as_json(value: Any) -> Response:
    return Response(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", action="append", default=[], metavar="NAME=FOLDER", help="code of an image")
    parser.add_argument("--kind", choices=["faas-netes", "faasd"], default="faas-netes", help="provider to emulate")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    parser.add_argument("--username", default="admin", help="for /system")
    parser.add_argument("--password-file", type=Path, help="for /system; without it there is no basic auth")
    parser.add_argument("--upstream-timeout", type=float, default=3600.0, metavar="SECONDS", help="of the gateway")
    options = parser.parse_args()
    images = {name: Path(folder) for name, _, folder in (each.partition("=") for each in options.image)}
    password = options.password_file.read_text(encoding="utf-8").strip() if options.password_file else ""
    switches = {"username": options.username, "password": password, "upstream_timeout_s": options.upstream_timeout}
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with running(images, kind=options.kind, port=options.port, **switches) as gateway:
        print(f"ready {gateway.url}", flush=True)  # noqa: T201 (the parent process waits for this line)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_main())
