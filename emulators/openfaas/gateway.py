"""An OpenFaaS CE for tests: gateway, provider, watchdog and template, as they behave, with real function processes.

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
"""The gateway itself has no limit."""

_SHUTDOWN_S: Final = 0.01
"""Calls under way are cut off. (Zero would be for ever.)"""

_STREAMED_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Call:
    """A call of a function as it came in; with the namespace, if it was called with one."""

    function: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Gateway:
    """The gateway, and what a test may do to it. Use it as `async with running(...) as gateway`.

    Attributes:
        provider: the functions, with knobs of their own.
        username: for `/system`.
        password: for `/system`; empty: no basic auth.
        scale_from_zero: an unknown function is a 404 of the gateway, else a 503 of its provider.
        upstream_timeout_s: how long it waits for a function.
        prometheus: whether it is in reach; if not, the list of functions drops the connection.
        provider_away: whether calls of functions do not reach the provider.
        dropped: how many lists were dropped for that.
        calls: every call of a function so far.
        port: where it listens.
    """

    provider: Provider
    username: str = "admin"
    password: str = ""
    scale_from_zero: bool = False
    upstream_timeout_s: float = 60.0
    prometheus: bool = True
    provider_away: bool = False
    dropped: int = 0
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def up(self) -> None:
        """Listen, on the port of the last time."""
        runner = web.AppRunner(self._application(), shutdown_timeout=_SHUTDOWN_S, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        self._runner = runner

    async def down(self) -> None:
        """Listen no more, and break every connection; functions go on with their work."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def watchdog(self, name: str) -> Watchdog:
        """The container of a function."""
        return self.provider.functions[name].watchdog

    def refuse(self, name: str, calls: int) -> None:
        """Answer the next calls of a function with 429."""
        self.watchdog(name).refusals = calls

    def hang(self, name: str, calls: int) -> None:
        """Hold the answers to the next calls of a function back until they have timed out."""
        self.watchdog(name).hangs = calls

    async def vanish(self, name: str) -> None:
        """Delete a function behind everybody's back."""
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

    def _system(self, answer: Callable[[web.Request], Awaitable[Response]]) -> Callable[..., Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            if not self._may(request):
                refused = {"WWW-Authenticate": 'Basic realm="Restricted"'}
                return web.Response(status=401, text="invalid credentials", headers=refused)
            try:
                response = await answer(request)
            except Refused as exc:
                response = exc.response
            return web.Response(status=response.status, body=response.body, headers=response.headers)

        return handler

    def _may(self, request: web.Request) -> bool:
        if not self.password:
            return True
        wanted = aiohttp.encode_basic_auth(self.username, self.password)
        return hmac.compare_digest(request.headers.get("Authorization", ""), wanted)

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
        found = [deployed.status() for deployed in self.provider.functions.values()]
        if found and not self.prometheus and request.transport is not None:
            # A panic in the gateway: the connection is dropped without an answer.
            self.dropped += 1
            request.transport.abort()
        return _as_json(found)

    async def _secrets(self, request: web.Request) -> Response:
        if request.method == "GET":
            return _as_json([{"name": name, "namespace": NAMESPACE} for name in self.provider.secrets])
        return await self.provider.keep_secret(request.method, await _json(request))

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
        begun_s, given = time.time(), request.headers.get("X-Call-Id")
        call_id = given or str(uuid.uuid4())
        name, _, namespace = request.match_info["name"].partition(".")
        path = request.match_info["path"] or "/"
        self.calls.append(Call(request.match_info["name"], request.method, path, dict(request.headers)))
        headers = CIMultiDict({**request.headers, "X-Call-Id": call_id, "X-Start-Time": str(int(begun_s * 1e9))})
        served = {"X-Served-By": "openfaas-ce/emulated", "X-Start-Time": headers["X-Start-Time"]}
        if given is None:
            served["X-Call-Id"] = call_id
        known = self.provider.functions.get(name) if namespace in ("", NAMESPACE) else None
        if known is None and self.scale_from_zero:
            return web.Response(
                status=404, text=f"error finding function {name}.{NAMESPACE}: not found", headers=served
            )
        try:
            async with asyncio.timeout(self.upstream_timeout_s):
                answer = await self._proxied(request, name, path, headers)
        except TimeoutError:
            answer = Response(502)
        return web.Response(status=answer.status, body=answer.body, headers={**answer.headers, **served})

    async def _proxied(self, request: web.Request, name: str, path: str, headers: CIMultiDict[str]) -> Response:
        if self.provider_away:
            return Response(502)
        found = self.provider.functions.get(name)
        if found is None or not found.is_available:
            own = {"X-OpenFaaS-Internal": "proxy", "Content-Type": "text/plain"}
            return Response(503, f"No endpoints available for: {name}.\n".encode(), own)
        found.invocations += 1
        query = f"?{request.query_string}" if request.query_string else ""
        return await found.watchdog.call(request.method, path + query, headers, _streamed(request))


@contextlib.asynccontextmanager
async def running(
    images: dict[str, Path], *, kind: Literal["faas-netes", "faasd"] = "faas-netes", port: int = 0, **knobs: Any
) -> AsyncIterator[Gateway]:
    """An OpenFaaS until the end.

    Args:
        images: for each image, the folder with the code of the function that it holds.
        kind: what is behind the gateway.
        port: on the loopback address; 0: a free one.
        knobs: attributes of `Gateway`.
    """
    limits = aiohttp.TCPConnector(limit=0)
    with tempfile.TemporaryDirectory(prefix="openfaas-") as folder:
        async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(None)) as http:
            gateway = Gateway(Provider(kind, images, Path(folder), http), port=port, **knobs)
            await gateway.up()
            try:
                yield gateway
            finally:
                await gateway.down()
                await gateway.provider.close()


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.read())
    except ValueError as exc:
        raise Refused(400, str(exc)) from exc
    if not isinstance(found, dict):
        raise Refused(400, "no object")
    return found


def _as_json(value: Any) -> Response:
    return Response(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


async def _streamed(request: web.Request) -> AsyncIterator[bytes]:
    async for part in request.content.iter_chunked(_STREAMED_BYTES):
        yield part


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", action="append", default=[], metavar="NAME=FOLDER", help="code of an image")
    parser.add_argument("--kind", choices=["faas-netes", "faasd"], default="faas-netes", help="whose quirks")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--username", default="admin", help="for /system")
    parser.add_argument("--password-file", type=Path, help="for /system; without it there is no basic auth")
    parser.add_argument("--upstream-timeout", type=float, default=3600.0, metavar="SECONDS", help="of the gateway")
    given = parser.parse_args()
    images = {name: Path(folder) for name, _, folder in (each.partition("=") for each in given.image)}
    password = given.password_file.read_text(encoding="utf-8").strip() if given.password_file else ""
    knobs = {"username": given.username, "password": password, "upstream_timeout_s": given.upstream_timeout}
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with running(images, kind=given.kind, port=given.port, **knobs) as gateway:
        print(f"ready {gateway.url}", flush=True)  # noqa: T201 (what whoever started it waits for)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_main())
