"""An emulator of OpenWhisk: the controller's REST API on loopback, with actions in their own processes.

A test uses `async with emulated() as whisk`. As a program, `python -m emulators.openwhisk.controller` prints
`ready URL` and serves until SIGTERM or SIGINT.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import sys
import time
import uuid
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from hmac import compare_digest
from http import HTTPStatus as Http
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from broker.support.tasks import task_group
from emulators import certificates
from emulators.openwhisk.activations import STATUSES, context_of, record_of, split_parameters, values
from emulators.openwhisk.entities import Entities, Entity, Limits, Refused
from emulators.openwhisk.pool import APPLICATION_ERROR, SUCCESS, WHISK_ERROR, Call, Outcome, Pool

BODY_BYTES: Final = 1 << 20

AUTH: Final = "00000000-0000-4000-8000-000000000000:the-key-of-the-emulator"
"""Default key of the namespace."""

_HOLD_S: Final = 60.0
"""Time limit of a blocking invocation, in seconds."""


class _PerMinute:
    """Counts requests per minute of the wall clock, with the refused ones (RateThrottler.scala)."""

    def __init__(self) -> None:
        self._minute = 0
        self._count = 0

    def count(self, allowed: int) -> None:
        minute = int(time.time()) // 60
        self._count = 1 if minute != self._minute else self._count + 1
        self._minute = minute
        if self._count > allowed:
            text = f"Too many requests in the last minute (count: {self._count}, allowed: {allowed})."
            raise Refused(429, text)


@dataclass
class Whisk:
    """The platform, with switches for tests. Use it as `async with emulated() as whisk`.

    Attributes:
        auth: the namespace's key, `uuid:key`.
        pool: the containers; it has switches too.
        group: runs the background tasks.
        limits: limits of the namespace. Each emulator has its own, which a test may change.
        url: address of the platform.
        ca_file: certificate of an `https` emulator.
        delay_s: time until a record is stored, in seconds.
        lose_fires: number of further records of triggers that are never stored.
        lose_runs: number of further records of actions that are never stored.
        faults: responses to the next POSTs to triggers and actions: a status, or 0 for a closed connection.
        failing_polls: number of further requests for a record that get a 503.
        empty_puts: whether a PUT gets a response without a body.
        limits_document: other response to `GET limits`; None for the real limits.
        images: code in each image, base64, by name of the image.
        requests: method and path of every request.
        activations: stored records, by id.
        in_flight: number of runs in progress.
    """

    auth: str
    pool: Pool
    group: asyncio.TaskGroup
    limits: Limits = field(default_factory=Limits)
    url: str = ""
    ca_file: Path | None = None
    delay_s: float = 0.0
    lose_fires: int = 0
    lose_runs: int = 0
    faults: deque[int] = field(default_factory=deque)
    failing_polls: int = 0
    empty_puts: bool = False
    limits_document: Any = None
    images: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    activations: dict[str, Entity] = field(default_factory=dict)
    in_flight: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.entities = Entities("guest", self.limits)
        self._fires, self._invocations = _PerMinute(), _PerMinute()
        self._transactions = itertools.count(1)

    def app(self) -> web.Application:
        """Return the REST API."""
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 27)
        root = "/api/v1/namespaces/{namespace}"
        app.router.add_get(f"{root}/limits", self._get_limits)
        for collection in ("actions", "triggers", "rules"):
            app.router.add_get(f"{root}/{{collection:{collection}}}", self._page)
            app.router.add_get(f"{root}/{{collection:{collection}}}/{{name}}", self._get)
            app.router.add_put(f"{root}/{{collection:{collection}}}/{{name}}", self._put)
            app.router.add_delete(f"{root}/{{collection:{collection}}}/{{name}}", self._delete)
        app.router.add_post(f"{root}/actions/{{name}}", self._invoke)
        app.router.add_post(f"{root}/triggers/{{name}}", self._fire)
        app.router.add_post(f"{root}/rules/{{name}}", self._switch)
        app.router.add_get(f"{root}/activations", self._activations)
        app.router.add_get(f"{root}/activations/{{id}}", self._activation)
        app.router.add_get(f"{root}/activations/{{id}}/{{part:result|logs}}", self._activation)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Check the access, apply faults, and turn Refused into a response."""
        self.requests.append(f"{request.method} {request.path_qs}")
        try:
            self._check_access(request)
            return await self._fault(request) or await handler(request)
        except Refused as exc:
            return web.json_response({"error": str(exc), "code": f"{next(self._transactions):032x}"}, status=exc.status)

    def _check_access(self, request: web.Request) -> None:
        credentials = request.headers.get("Authorization", "")
        if not compare_digest(credentials, "Basic " + b64encode(self.auth.encode()).decode()):
            raise Refused(401, "The supplied authentication is invalid.")
        if request.match_info.get("namespace", "_") not in {"_", self.entities.namespace}:
            raise Refused(403, "The supplied authentication is not authorized to access this resource.")
        if (request.content_length or 0) > BODY_BYTES and request.method == "POST":
            raise Refused(413, f"Request larger than allowed: {request.content_length} > {BODY_BYTES} bytes.")

    async def _fault(self, request: web.Request) -> web.StreamResponse | None:
        if not self.faults or request.method != "POST" or "/rules/" in request.path:
            return None
        await request.read()
        status = self.faults.popleft()
        if status == 0 and request.transport is not None:
            request.transport.abort()
        return web.Response(status=status or 500, text="<html>a proxy in front of the controller</html>")

    async def _get_limits(self, _: web.Request) -> web.Response:
        return web.json_response(self.limits_document or self.limits.document())

    async def _page(self, request: web.Request) -> web.Response:
        limit, skip = int(request.query.get("limit", "30")), int(request.query.get("skip", "0"))
        return web.json_response(self.entities.page(request.match_info["collection"], limit, skip))

    async def _get(self, request: web.Request) -> web.Response:
        entity = dict(self.entities.get(*_entity_path(request)))
        if request.query.get("code") == "false" and "exec" in entity:
            entity["exec"] = {name: value for name, value in entity["exec"].items() if name != "code"}
        return web.json_response(entity)

    async def _put(self, request: web.Request) -> web.Response:
        overwrite = request.query.get("overwrite") == "true"
        entity = self.entities.put(*_entity_path(request), await _object(request), overwrite=overwrite)
        return web.Response() if self.empty_puts else web.json_response(entity)

    async def _delete(self, request: web.Request) -> web.Response:
        return web.json_response(self.entities.delete(*_entity_path(request)))

    async def _switch(self, request: web.Request) -> web.Response:
        self.entities.set_status(request.match_info["name"], (await _object(request))["status"])
        return web.Response()

    async def _fire(self, request: web.Request) -> web.Response:
        self._fires.count(self.limits.fires_per_minute)
        payload = await _object(request)
        trigger = self.entities.get("triggers", request.match_info["name"])
        if not any(rule["status"] == "active" for rule in trigger["rules"].values()):
            return web.Response(status=204)
        # Triggers.scala:161: the action gets all headers of the request that fires, with the key.
        headers = {name.lower(): value for name, value in request.headers.items()}
        arguments = {**values(trigger), **payload, "__ow_headers": headers}
        activation = uuid.uuid4().hex
        self._spawn(self._fire_rules(activation, trigger, arguments), f"fire {activation}")
        return _accepted(activation)

    async def _fire_rules(self, activation: str, trigger: Entity, arguments: Entity) -> None:
        logs = [json.dumps(self._fire_rule(name, rule, arguments)) for name, rule in trigger["rules"].items()]
        record = record_of(activation, trigger, Outcome(SUCCESS, arguments, logs), time.time())
        self.lose_fires, lost = max(0, self.lose_fires - 1), self.lose_fires > 0
        await self._store(record, lost=lost)

    def _fire_rule(self, name: str, rule: Entity, arguments: Entity) -> Entity:
        """Start the action of a rule, and return the line of the trigger's log."""
        line = {"rule": name, "action": f"{self.entities.namespace}/{rule['action']['name']}"}
        try:
            activation = self._run_rule(name, rule, arguments)
        except Refused as exc:
            # OpenWhisk stores the code of an activation here, and drops the HTTP status of the inner request.
            code = WHISK_ERROR if exc.status >= Http.INTERNAL_SERVER_ERROR else APPLICATION_ERROR
            return {**line, "statusCode": code, "success": False, "error": str(exc)}
        return {**line, "statusCode": SUCCESS, "success": True, "activationId": activation}

    def _run_rule(self, name: str, rule: Entity, arguments: Entity) -> str:
        action = rule["action"]["name"]
        if rule["status"] != "active":
            text = f"Rule '{name}' is inactive, action '{self.entities.namespace}/{action}' was not activated."
            raise Refused(400, text)
        size = len(json.dumps(arguments))
        if size > BODY_BYTES:
            raise Refused(413, f"Request larger than allowed: {size} > {BODY_BYTES} bytes.")
        return self._start_run(action, arguments)[0]

    async def _invoke(self, request: web.Request) -> web.Response:
        activation, run = self._start_run(request.match_info["name"], await _object(request))
        if request.query.get("blocking") != "true":
            return _accepted(activation)
        hold_s = min(float(request.query.get("timeout", "60000")) / 1000, _HOLD_S)
        try:
            async with asyncio.timeout(hold_s):
                record = await asyncio.shield(run)
        except TimeoutError:
            return _accepted(activation)
        code = STATUSES.index(record["response"]["status"])
        body = record["response"]["result"] if request.query.get("result") == "true" else record
        headers = {"x-openwhisk-activation-id": activation}
        return web.json_response(body, status=(200, 502, 502, 500)[code], headers=headers)

    def _start_run(self, name: str, arguments: Entity) -> tuple[str, "asyncio.Future[Entity]"]:
        """Start an action; return the id of its activation, and its future record."""
        self._invocations.count(self.limits.invocations_per_minute)
        if self.in_flight >= self.limits.concurrent_invocations:
            allowed = self.limits.concurrent_invocations
            text = f"Too many concurrent requests in flight (count: {self.in_flight + 1}, allowed: {allowed})."
            raise Refused(429, text)
        action = self.entities.get("actions", name)
        self.in_flight += 1
        activation = uuid.uuid4().hex
        ended: asyncio.Future[Entity] = asyncio.get_running_loop().create_future()
        self._spawn(self._run(activation, dict(action), arguments, ended), f"run {activation}")
        return activation, ended

    async def _run(self, activation: str, action: Entity, arguments: Entity, ended: "asyncio.Future[Entity]") -> None:
        start_s = time.time()
        transaction = f"{next(self._transactions):032x}"
        code = action["exec"].get("code") or self.images.get(action["exec"].get("image", ""), "")
        value, env = split_parameters(action, arguments)
        context = context_of(activation, action, transaction, start_s, self.auth)
        call = Call(action, code, value, env, context, self.url)
        try:
            if call.code:
                outcome = await self.pool.run(call)
            else:
                text = f"Failed to pull container image '{action['exec'].get('image', '')}'."
                outcome = Outcome(WHISK_ERROR, {"error": text})
        finally:
            self.in_flight -= 1
        record = record_of(activation, action, outcome, start_s)
        ended.set_result(record)
        self.lose_runs, lost = max(0, self.lose_runs - 1), self.lose_runs > 0
        await self._store(record, lost=lost)

    async def _store(self, record: Entity, *, lost: bool) -> None:
        await asyncio.sleep(self.delay_s)
        if not lost:
            self.activations[record["activationId"]] = record

    async def _activation(self, request: web.Request) -> web.Response:
        if self.failing_polls:
            self.failing_polls -= 1
            raise Refused(503, "The server is currently unavailable.")
        record = self.activations.get(request.match_info["id"])
        if record is None:
            raise Refused(404, "The requested resource does not exist.")
        parts = {"result": record["response"], "logs": {"logs": record["logs"]}}
        return web.json_response(parts.get(request.match_info.get("part", ""), record))

    async def _activations(self, request: web.Request) -> web.Response:
        name = request.query.get("name")
        records = [record for record in self.activations.values() if name in {None, record["name"]}]
        return web.json_response(records[::-1][: int(request.query.get("limit", "30"))])

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self.group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Cancel the tasks that still run, and end every container."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.pool.end()


def _entity_path(request: web.Request) -> tuple[str, str]:
    return request.match_info["collection"], request.match_info["name"]


async def _object(request: web.Request) -> Entity:
    try:
        content = json.loads(await request.read() or b"{}")
    except ValueError as exc:
        raise Refused(400, f"The request content was malformed:\n{exc}") from exc
    if not isinstance(content, dict):
        raise Refused(400, "The request content was malformed:\nObject expected")
    return content


def _accepted(activation: str) -> web.Response:
    headers = {"x-openwhisk-activation-id": activation}
    return web.json_response({"activationId": activation}, status=202, headers=headers)


@contextlib.asynccontextmanager
async def emulated(*, auth: str = AUTH, port: int = 0, tls: Path | None = None) -> AsyncIterator[Whisk]:
    """Run a platform with one namespace, `guest`, until the end of the block.

    Args:
        auth: the namespace's key, `uuid:key`.
        port: port on the loopback address; 0 for a free one.
        tls: folder for a self-signed certificate and its key; None for plain HTTP.
    """
    timeout = aiohttp.ClientTimeout(total=None)  # the platform itself limits the time of a run
    async with aiohttp.ClientSession(timeout=timeout) as session, task_group() as group:
        whisk = Whisk(auth, Pool(session), group)
        context = await certificates.loopback(tls) if tls else None
        whisk.ca_file = tls / certificates.CERTIFICATE if tls else None
        runner = web.AppRunner(whisk.app(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
            whisk.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
            yield whisk
        finally:
            await runner.cleanup()
            await whisk.end()


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, with the options of the command line."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with emulated(auth=options.auth, port=options.port, tls=options.tls) as whisk:
        whisk.delay_s = options.delay
        whisk.limits.invocations_per_minute = whisk.limits.fires_per_minute = options.per_minute
        whisk.limits.concurrent_invocations = options.concurrent
        whisk.limits.memory_mb = options.memory
        sys.stdout.write(f"ready {whisk.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m emulators.openwhisk.controller", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on the loopback address; by default a free one")
    parser.add_argument("--auth", default=AUTH, help="the namespace's key, uuid:key (%(default)s)")
    parser.add_argument("--tls", type=Path, help="serve https; put certificate.pem and key.pem into this folder")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until a record is stored (%(default)s)")
    parser.add_argument("--per-minute", type=int, default=60, help="fires, and invocations, a minute (%(default)s)")
    parser.add_argument("--concurrent", type=int, default=30, help="invocations at once (%(default)s)")
    parser.add_argument("--memory", type=int, default=512, help="limit of an action's memory, MB (%(default)s)")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
