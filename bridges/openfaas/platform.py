"""The `openfaas` platform: functions behind an OpenFaaS gateway (faasd on Jetson boards, Kubernetes).

They are called synchronously, never by `/async-function`: its queue accepts calls of functions that do not exist,
retries nothing, and runs what takes long twice.
"""

import contextlib
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import httpx
import msgspec
import structlog

from bridges.errors import BadSettings, FunctionGone, InvocationFailed, LostSight, NotStarted, PlatformAway
from bridges.openfaas.answers import NAME, Answer, failure
from bridges.openfaas.api import Gateway, connected
from bridges.openfaas.connector import Connector
from bridges.openfaas.deployment import NAMESPACE
from bridges.openfaas.functions import Functions
from bridges.openfaas.inline import Carrier, report_of
from bridges.platform import Activation, Host
from bridges.secrets import Vault
from broker import topics
from broker.base import Broker
from broker.messages import bundle, codec, signature
from broker.messages.function import Change, Deployed, Function
from broker.messages.invocation import Order, Report
from broker.messages.round import RoundTask

log = structlog.get_logger(__name__)

REPORT_BYTES: Final = 64 << 10

PARCEL_BYTES: Final = 16 << 20
PARCEL_MODELS: Final = 8
"""An update is as large as the model, Adam's state twice that, and four times for a model in half precision."""

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bridge to an OpenFaaS gateway.

    Attributes:
        name: of the platform: the level of the task topics.
        gateway: its URL, without user or password.
        ca_file: PEM file of the authority that signed its certificate; empty: one that the system knows.
        username: for the gateway's own API, never sent to functions.
        password: name of the secret that is its password; empty: the gateway wants none.
        namespace: where functions are made and looked for first.
        key: name of the secret that calls are signed with; empty: they are not signed.
        reply: how an update comes back: the function publishes it to the `broker` itself, or it has no route there, and
            model and update travel with the call and its `response`.
        concurrency: how many calls may be under way at once.
        per_minute: how many calls to make in a minute; 0: as many as there are.
        start_s: how long a function may take until it trains.
        run_s: how long it may take after that; the gateway's `upstream_timeout` must be longer than both together.
        ready_s: how long a new function may take until it can be called.
        rebuild_s: how often the annotations `topic` of other people's functions are read.
    """

    name: str = "openfaas"
    gateway: str = "http://127.0.0.1:8080"
    ca_file: str = ""
    username: str = "admin"
    password: str = ""
    namespace: str = NAMESPACE
    key: str = ""
    reply: Literal["broker", "response"] = "broker"
    concurrency: Annotated[int, msgspec.Meta(ge=1)] = 32
    per_minute: Annotated[int, msgspec.Meta(ge=0)] = 0
    start_s: Seconds = 120.0
    run_s: Seconds = 600.0
    ready_s: Seconds = 120.0
    rebuild_s: Seconds = 10.0


@dataclass
class OpenFaas:
    """The functions of one gateway. Use it as `async with opened(...) as platform`.

    Attributes:
        settings: see there.
        gateway: connected.
        functions: what can be done with them.
        broker: where the updates of functions go that have no route to it.
        key: what calls are signed with; empty: they are not.
        clock: seconds since the epoch.
        connector: which functions of others want which topic.
    """

    settings: Settings
    gateway: Gateway
    functions: Functions
    broker: Broker
    key: bytes = b""
    clock: Callable[[], float] = time.time
    connector: Connector = field(init=False)

    def __post_init__(self) -> None:
        self.connector = Connector(
            self.broker, self.name, self.functions.every, self._forward, rebuild_s=self.settings.rebuild_s
        )

    @property
    def name(self) -> str:
        """See `bridges.platform.Platform`."""
        return self.settings.name

    @property
    def concurrency(self) -> int:
        """See `bridges.platform.Platform`."""
        return self.settings.concurrency

    @property
    def per_minute(self) -> int:
        """See `bridges.platform.Host`."""
        return self.settings.per_minute

    @property
    def start_s(self) -> float:
        """See `bridges.platform.Host`."""
        return self.settings.start_s

    @property
    def run_s(self) -> float:
        """See `bridges.platform.Host`."""
        return self.settings.run_s

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:  # noqa: ARG002 (OpenFaaS runs images)
        """See `bridges.platform.Host`."""
        return await self.functions.create(function)

    async def delete(self, name: str) -> Change:
        """See `bridges.platform.Host`; `name.namespace` too."""
        return await self.functions.delete(name)

    async def list(self) -> list[Deployed]:
        """See `bridges.platform.Host`."""
        return await self.functions.every()

    async def serve(self) -> None:
        """Follow the annotations of other people's functions, and hand events to them; until cancelled."""
        await self.connector.serve()

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Call the client's function and wait until it has published, or answered; see `bridges.platform.Platform`.

        Nothing is known of a call before its answer: that training began, the function itself reports.
        """
        call_id = str(uuid.uuid4())  # as the gateway itself would make one
        try:
            report = _done(await self._asked(Order(task, attempt), call_id))
        except InvocationFailed as exc:
            exc.activation = call_id
            raise
        yield Activation(call_id, "succeeded", report.cold)

    async def _asked(self, order: Order, call_id: str) -> Report:
        task = order.task
        function = task.url or self.connector.serving(topics.task(self.name, task.client_id)) or task.client_id
        if self.settings.reply == "broker":
            answer = await self._called(function, codec.encode(order), "application/json", call_id, REPORT_BYTES)
            return report_of(answer.body, order)
        carrier, at_most = Carrier(self.broker), PARCEL_BYTES + PARCEL_MODELS * task.model.bytes
        try:
            answer = await self._called(function, await carrier.packed(order), bundle.CONTENT_TYPE, call_id, at_most)
        except LostSight as exc:
            # Whatever becomes of the run, its update is lost with the answer.
            raise InvocationFailed(exc.reason) from exc
        return await carrier.unpacked(answer.body, order)

    async def _called(self, function: str, body: bytes, kind: str, call_id: str, at_most: int) -> Answer:
        headers = {signature.CALL_ID: call_id, "Content-Type": kind}
        if self.key:
            headers |= signature.sign(self.key, body, call_id, self.clock())
        return await self._call(function, body, headers, at_most)

    async def _forward(self, function: str, payload: bytes, headers: dict[str, str]) -> None:
        """Hand an event to somebody else's function; what it answers is of no interest."""
        await self._call(function, payload, headers, PARCEL_BYTES)

    async def _call(self, function: str, body: bytes, headers: dict[str, str], at_most: int) -> Answer:
        if not NAME.fullmatch(function):
            raise InvocationFailed(f"{function!r} is no function's name", retryable=False)
        within_s, namespace = self.settings.start_s + self.settings.run_s, self.settings.namespace
        if "." not in function and namespace != NAMESPACE:
            function = f"{function}.{namespace}"
        answer = await self.gateway.call(function, body, headers, within_s=within_s, at_most=at_most)
        failed = failure(answer, function)
        if isinstance(failed, FunctionGone) and await self._is_there(function):
            raise NotStarted(failed.reason)
        if failed is not None:
            raise failed
        return answer

    async def _is_there(self, function: str) -> bool:
        """Whether it is only without a replica now; a gateway that can't say leaves it at that too."""
        try:
            return await self.functions.exists(function)
        except PlatformAway:
            return True


@contextlib.asynccontextmanager
async def opened(settings: Settings, vault: Vault, broker: Broker) -> AsyncIterator[Host]:
    """A gateway whose functions can be called; one that is out of reach now may come back.

    Args:
        settings: see there.
        vault: holds the secrets that the settings and functions name.
        broker: where the bridge's events come from and go to.

    Raises:
        BadSettings: the gateway's address can't be used.
        SecretMissing: a secret that the settings name is not here.
        PlatformDenied: the gateway refuses the password.
    """
    _check(settings.gateway)
    auth = httpx.BasicAuth(settings.username, vault.value(settings.password)) if settings.password else None
    key = vault.value(settings.key).encode() if settings.key else b""
    async with connected(settings.gateway, _trusted(settings.ca_file), auth, platform=settings.name) as gateway:
        functions = Functions(gateway, vault, settings.namespace, settings.ready_s)
        platform = OpenFaas(settings, gateway, functions, broker, key)
        try:
            await gateway.system("GET", "/info", "check the password")
        except PlatformAway as exc:
            log.warning("the gateway is out of reach; going on", gateway=settings.gateway, error=str(exc))
        else:
            await platform.connector.rebuild()
        yield platform


def _done(report: Report) -> Report:
    """The report itself.

    Raises:
        InvocationFailed: it says something else than that the update is published.
    """
    if report.state != "done":
        reason = report.reason or f"it answered that it is {report.state}"
        raise InvocationFailed(reason, retryable=report.retryable)
    return report


def _check(gateway: str) -> None:
    try:
        url = httpx.URL(gateway)
    except httpx.InvalidURL as exc:
        # Not shown: it may hold a password.
        raise BadSettings("gateway", "...", f"no URL: {exc}") from exc
    if url.userinfo:
        # They would be sent to functions too.
        raise BadSettings("gateway", str(url.copy_with(userinfo=b"...")), "use `username` and `password` instead")
    if url.scheme not in ("http", "https") or not url.host:
        raise BadSettings("gateway", gateway, "use http://HOST:PORT or https://HOST:PORT")


def _trusted(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:
        raise BadSettings("ca_file", ca_file, f"it can't be read: {exc}") from exc
