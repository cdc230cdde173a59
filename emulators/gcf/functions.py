"""The Cloud Functions API (version 2, 2nd gen) on a loopback port, for functions that a Pub/Sub topic triggers.

It unpacks a function's source, and runs it with this Python and its packages instead of building an image. Tests cause
faults through the attributes of `CloudFunctions`.
"""

import asyncio
import contextlib
import copy
import io
import re
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from broker.support.tasks import task_group
from emulators.gcf.cloud_run import CloudRun, Service
from emulators.gcf.pubsub import PubSub
from emulators.gcf.subscription import Refused, Subscription

EVENT_S: Final = 540
EVENT_TYPE: Final = "google.cloud.pubsub.topic.v1.messagePublished"
ARCHIVE_BYTES: Final = 512 << 20

_ID: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL: Final = re.compile(r"[a-z0-9_-]{0,63}")
_PARENT: Final = "/v2/{parent:projects/[^/]+/locations/[^/]+}"
_ACK_DEADLINE_S: Final = 600.0

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """Raised when the API refuses a call.

    Attributes:
        status: HTTP status of the response.
        code: name of the error, such as `NOT_FOUND`.
    """

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class CloudFunctions:
    """The API, for any project and location. Use it as `async with serving(pubsub) as functions`.

    Args:
        pubsub: Pub/Sub with the topics that trigger functions.
        run: runs the functions' instances.
        folder: folder for the unpacked sources.
        group: runs the background tasks.

    Attributes:
        url: address of the API.
        run: runs the functions' instances.
        functions: resource of every function, by full name.
        services: service of every function, by full name.
        operation_s: duration of an operation, in seconds.
        page: largest number of functions on one page.
        bearer: token that callers must send; empty for none.
        refuse: status of the response to every call; None for normal responses.
        refuse_next: statuses of the responses to the next calls.
        refuse_polls: statuses of the responses to the next polls of operations.
        fail_next: reasons why the next operations fail.
        forget_uploads: whether URLs for uploads are not valid.
        secrets: secrets in Secret Manager, by name.
        calls: method and path of every call.
    """

    def __init__(self, pubsub: PubSub, run: CloudRun, folder: Path, group: asyncio.TaskGroup) -> None:
        self.url = ""
        self.run = run
        self.functions: dict[str, Json] = {}
        self.services: dict[str, Service] = {}
        self.operation_s = 0.0
        self.page = 1000
        self.bearer = ""
        self.refuse: HTTPStatus | None = None
        self.refuse_next: list[HTTPStatus] = []
        self.refuse_polls: list[HTTPStatus] = []
        self.fail_next: list[str] = []
        self.forget_uploads = False
        self.secrets: dict[str, str] = {}
        self.calls: list[str] = []
        self._pubsub = pubsub
        self._folder = folder
        self._group = group
        self._archives: dict[str, bytes | None] = {}
        self._operations: dict[str, Json] = {}
        self._operation_tasks: list[asyncio.Task[None]] = []

    def app(self) -> web.Application:
        """Return the API, with the endpoint for Pub/Sub's pushes."""
        app = web.Application(middlewares=[self._errors], client_max_size=ARCHIVE_BYTES)
        app.router.add_post(f"{_PARENT}/functions:generateUploadUrl", self._generate_upload_url)
        app.router.add_post(f"{_PARENT}/functions", self._create)
        app.router.add_get(f"{_PARENT}/functions", self._list)
        function = _PARENT + "/functions/{id}"
        app.router.add_get(function, self._get)
        app.router.add_patch(function, self._patch)
        app.router.add_delete(function, self._delete)
        app.router.add_get(_PARENT + "/operations/{id}", self._operation)
        app.router.add_put("/upload/{object}", self._upload)
        app.router.add_post("/run/{name:.+}", self._event)
        return app

    async def remove(self, name: str) -> None:
        """Delete a function with its trigger, as another user would. The topic stays."""
        del self.functions[name]
        service = self.services.pop(name, None)
        if service is not None:
            await self.run.stop(service)
        with contextlib.suppress(Refused):
            self._pubsub.unsubscribe(_subscription_name(name))

    async def crash(self, name: str) -> None:
        """Kill a function's process. The next event starts a new one."""
        await self.services[name].stop()

    async def close(self) -> None:
        """Cancel every operation and remove every function."""
        for task in self._operation_tasks:
            task.cancel()
        for name in list(self.functions):
            await self.remove(name)
        await self.run.close()

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the access, and turn ApiError into a response."""
        try:
            if request.path.startswith("/v2/"):
                self._check_access(request)
            return await handler(request)
        except ApiError as exc:
            error = {"code": exc.status, "message": str(exc), "status": exc.code}
            return web.json_response({"error": error}, status=exc.status)

    def _check_access(self, request: web.Request) -> None:
        self.calls.append(f"{request.method} {request.path}")
        refused = self.refuse_next.pop(0) if self.refuse_next else self.refuse
        if self.bearer and request.headers.get("Authorization") != f"Bearer {self.bearer}":
            refused = HTTPStatus.UNAUTHORIZED
        if refused is not None:
            raise ApiError(refused, refused.name, f"a test wants {refused.phrase}")

    async def _generate_upload_url(self, _: web.Request) -> web.Response:
        name = secrets.token_hex(16)
        if not self.forget_uploads:
            self._archives[name] = None
        url = f"{self.url}/upload/{name}?X-Goog-Signature={secrets.token_hex(16)}"
        return web.json_response({"uploadUrl": url, "storageSource": {"bucket": "uploads", "object": name}})

    async def _upload(self, request: web.Request) -> web.Response:
        """Store an archive. The URL's signature is for this content type only, and excludes a token."""
        name = request.match_info["object"]
        is_signed = request.headers.get("Content-Type") == "application/zip" and "X-Goog-Signature" in request.query
        if name not in self._archives or not is_signed or "Authorization" in request.headers:
            return web.Response(status=HTTPStatus.FORBIDDEN, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        self._archives[name] = await request.read()
        return web.Response()

    async def _create(self, request: web.Request) -> web.Response:
        parent, function_id = request.match_info["parent"], request.query.get("functionId", "")
        name, body = f"{parent}/functions/{function_id}", await request.json()
        if not _ID.fullmatch(function_id):
            raise _invalid(f"functionId {function_id!r} must begin with a letter, and have a-z, 0-9 and '-' only")
        if name in self.functions:
            raise ApiError(HTTPStatus.CONFLICT, "ALREADY_EXISTS", f"Resource '{name}' already exists")
        _validate(body)
        self.functions[name] = {**body, "name": name, "state": "DEPLOYING"}
        return self._start_operation(name, partial(self._deploy, name))

    async def _patch(self, request: web.Request) -> web.Response:
        name, body = self._name(request), await request.json()
        self._require_idle(name)
        changed = copy.deepcopy(self.functions[name])
        for path in request.query.get("updateMask", "").split(","):
            _assign(changed, body, path.split("."))
        _validate(changed)
        self.functions[name] = {**changed, "state": "DEPLOYING"}
        return self._start_operation(name, partial(self._deploy, name))

    async def _delete(self, request: web.Request) -> web.Response:
        name = self._name(request)
        self._require_idle(name)
        self.functions[name]["state"] = "DELETING"
        return self._start_operation(name, partial(self.remove, name))

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self.functions[self._name(request)])

    async def _list(self, request: web.Request) -> web.Response:
        parent = f"{request.match_info['parent']}/functions/"
        functions = [function for name, function in sorted(self.functions.items()) if name.startswith(parent)]
        first = int(request.query.get("pageToken") or 0)
        end = first + min(self.page, int(request.query.get("pageSize") or self.page))
        more = {"nextPageToken": str(end)} if end < len(functions) else {}
        # Like protocol buffers, the response leaves out an empty list.
        return web.json_response(({"functions": functions[first:end]} if functions else {}) | more)

    async def _operation(self, request: web.Request) -> web.Response:
        name = f"{request.match_info['parent']}/operations/{request.match_info['id']}"
        if self.refuse_polls:
            status = self.refuse_polls.pop(0)
            raise ApiError(status, status.name, f"a test wants {status.phrase}")
        if name not in self._operations:
            raise _not_found(name)
        return web.json_response(self._operations[name])

    async def _event(self, request: web.Request) -> web.Response:
        """Forward an event that Pub/Sub pushes to its function."""
        service = self.services.get(request.match_info["name"])
        if service is None:
            return web.Response(status=HTTPStatus.NOT_FOUND)
        headers = {
            key: value for key, value in request.headers.items() if key.lower() not in {"host", "content-length"}
        }
        return web.Response(status=await self.run.request(service, headers, await request.read()))

    def _name(self, request: web.Request) -> str:
        name = f"{request.match_info['parent']}/functions/{request.match_info['id']}"
        if name not in self.functions:
            raise _not_found(name)
        return name

    def _require_idle(self, name: str) -> None:
        if self.functions[name]["state"] in {"DEPLOYING", "DELETING"}:
            raise ApiError(HTTPStatus.CONFLICT, "ABORTED", "unable to queue the operation: another one is under way")

    def _start_operation(self, function: str, work: Callable[[], Awaitable[None]]) -> web.Response:
        name = f"{function.partition('/functions/')[0]}/operations/operation-{secrets.token_hex(8)}"
        self._operations[name] = {"name": name, "metadata": {"target": function}, "done": False}
        self._operation_tasks.append(self._group.create_task(self._operate(name, function, work), name=name))
        return web.json_response(self._operations[name])

    async def _operate(self, name: str, function: str, work: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self.operation_s)
        try:
            await work()
        except ApiError as exc:
            self.functions.get(function, {})["state"] = "FAILED"
            result: Json = {"error": {"code": 3, "message": str(exc)}}
        else:
            result = {"response": self.functions.get(function, {})}
        self._operations[name] = {**self._operations[name], "done": True, **result}

    async def _deploy(self, name: str) -> None:
        if self.fail_next:
            raise _invalid(self.fail_next.pop(0))
        function = self.functions.get(name)
        if function is None:
            raise _not_found(name)
        config, build = function.get("serviceConfig", {}), function.get("buildConfig", {})
        folder = await asyncio.to_thread(self._unpack, build.get("source", {}).get("storageSource", {}))
        env = dict(config.get("environmentVariables", {}))
        for variable in config.get("secretEnvironmentVariables", []):
            secret = variable["secret"]
            if secret not in self.secrets:
                raise _invalid(f"Secret projects/{variable['projectId']}/secrets/{secret} was not found")
            env[variable["key"]] = self.secrets[secret]
        service = Service(name, folder, build["entryPoint"], env, float(config.get("timeoutSeconds") or 60))
        if name in self.services:
            await self.run.stop(self.services[name])
        self.services[name] = service
        self._create_trigger(name, function["eventTrigger"])
        self.functions[name]["state"] = "ACTIVE"

    def _unpack(self, source: Json) -> Path:
        archive = self._archives.get(source.get("object", ""))
        if archive is None:
            raise _invalid("the source archive was not uploaded")
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
        except zipfile.BadZipFile:
            raise _invalid("Build failed: the source is no zip archive") from None
        if not (folder / "main.py").is_file():
            raise _invalid("Build failed: missing main.py and GOOGLE_FUNCTION_SOURCE not specified")
        return folder

    def _create_trigger(self, name: str, trigger: Json) -> None:
        """Subscribe to the topic, as Eventarc does. An existing subscription is not repaired."""
        retries = trigger.get("retryPolicy") == "RETRY_POLICY_RETRY"
        with contextlib.suppress(Refused):
            self._pubsub.subscription(_subscription_name(name)).retries = retries
            return
        endpoint = f"{self.url}/run/{name}"
        subscription = Subscription(
            _subscription_name(name),
            trigger["pubsubTopic"],
            ack_deadline_s=_ACK_DEADLINE_S,
            endpoint=endpoint,
            is_eventarc=True,
            retries=retries,
        )
        try:
            self._pubsub.subscribe(subscription)
        except Refused as exc:
            raise _invalid(f"the trigger could not be created: {exc.reason}") from exc


@contextlib.asynccontextmanager
async def serving(pubsub: PubSub, *, port: int = 0, max_instances: int = 100) -> AsyncIterator[CloudFunctions]:
    """Run the API on the loopback interface until the end of the block; then kill the functions' processes.

    Args:
        pubsub: Pub/Sub with the topics that trigger functions.
        port: TCP port; 0 for a free one.
        max_instances: limit of the functions' instances at once.
    """
    folder = Path(tempfile.mkdtemp(prefix="gcf-"))
    async with aiohttp.ClientSession() as http, task_group() as group:
        service = CloudFunctions(pubsub, CloudRun(http, group, max_instances), folder, group)
        runner = web.AppRunner(service.app(), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            service.url = "http://{}:{}".format(*runner.addresses[0][:2])
            yield service
        finally:
            await service.close()
            await runner.cleanup()
            await asyncio.to_thread(shutil.rmtree, folder)


def _validate(body: Json) -> None:
    if body.get("environment") != "GEN_2":
        raise _invalid("environment must be GEN_2")
    trigger, config = body.get("eventTrigger", {}), body.get("serviceConfig", {})
    if trigger.get("eventType") != EVENT_TYPE or not trigger.get("pubsubTopic"):
        raise _invalid("eventTrigger needs an eventType and a pubsubTopic")
    if int(config.get("timeoutSeconds") or 60) > EVENT_S:
        raise _invalid(f"timeoutSeconds of an event-driven function must be at most {EVENT_S}")
    for value in body.get("labels", {}).values():
        if not _LABEL.fullmatch(value):
            raise _invalid(f"invalid label value: {value}")


def _assign(target: Json, source: Json, path: list[str]) -> None:
    """Copy the field that one path of an update mask names."""
    for level in path[:-1]:
        target, source = target.setdefault(level, {}), source.get(level, {})
    target[path[-1]] = source.get(path[-1])


def _subscription_name(function: str) -> str:
    _, project, _, location, _, name = function.split("/")
    return f"projects/{project}/subscriptions/eventarc-{location}-{name}-sub"


def _invalid(message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", message)


def _not_found(name: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, "NOT_FOUND", f"Resource '{name}' was not found")
