"""Runs tasks on functions behind an OpenFaaS gateway (faasd on Jetson boards, or Kubernetes).

Calls are synchronous. The queue behind `/async-function` is not used: it accepts calls of functions that do not exist,
never retries, and runs long calls twice.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Final

from bridges.errors import (
    BridgeError,
    FunctionGone,
    InvocationFailed,
    NotStarted,
    OutcomeUnknown,
    PlatformAway,
    as_failed_invocation,
)
from bridges.openfaas.api import Api, connected
from bridges.openfaas.connector import Connector
from bridges.openfaas.functions import Functions
from bridges.openfaas.inline import InlineTransfer, decode_report
from bridges.openfaas.responses import NAME, GatewayResponse, failure
from bridges.openfaas.settings import NAMESPACE, Settings
from bridges.platform import Activation, BasePlatform
from bridges.secrets import SecretStore
from broker import topics
from broker.base import Broker
from broker.messages import bundle, codec, signature
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.round import RoundTask
from broker.support import loggers

log = loggers.get_logger(__name__)

REPORT_BYTES: Final = 64 << 10

BUNDLE_BYTES: Final = 16 << 20
BUNDLE_MODELS: Final = 8
"""Size limit of a bundle, in models: an update has the size of the model, and Adam's state twice that (four times for a
model in half precision)."""


class OpenFaasPlatform(BasePlatform[Settings, Functions]):
    """Runs tasks on the functions of one gateway. Use it as `async with opened(...) as platform`.

    Args:
        settings: settings of the bridge.
        functions: creates, deletes and lists the functions.
        api: API of the gateway.
        broker: destination of the updates of functions that can't reach it themselves.
        key: signs the calls; empty for unsigned calls.
        clock: returns the seconds since the epoch.

    Attributes:
        api: API of the gateway.
        connector: forwards events to the functions of others.
    """

    def __init__(
        self,
        settings: Settings,
        functions: Functions,
        api: Api,
        broker: Broker,
        *,
        key: bytes = b"",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(settings, functions)
        self.api = api
        call = partial(self._call, max_bytes=BUNDLE_BYTES)
        self.connector = Connector(broker, settings.name, functions.list_all, call, rebuild_s=settings.rebuild_s)
        self._broker = broker
        self._key = key
        self._clock = clock

    @property
    def per_minute(self) -> int:
        """Implements `ManagedPlatform.per_minute`."""
        return self.settings.per_minute

    @property
    def run_s(self) -> float:
        """Implements `ManagedPlatform.run_s`."""
        return self.settings.run_s

    async def serve(self) -> None:
        """Forward events to the functions that ask for them, until cancelled."""
        await self.connector.serve()

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Implements `Platform.invoke`: call the client's function and wait for its response.

        The gateway shows no progress of a call. The function itself reports when its training begins.
        """
        call_id = str(uuid.uuid4())  # the gateway uses the same format for its own ids
        if self.settings.reply == "broker":
            yield Activation(call_id, "called")
        try:
            report = await self._run(InvocationRequest(task, attempt), call_id)
        except InvocationFailed as exc:
            exc.activation = call_id
            raise
        yield Activation(call_id, "succeeded", report.cold)

    async def _run(self, request: InvocationRequest, call_id: str) -> Report:
        task = request.task
        function = task.url or self.connector.serving(topics.task(self.name, task.client_id)) or task.client_id
        if self.settings.reply == "broker":
            body = codec.encode(request)
            response = await self._call_signed(function, body, "application/json", call_id, REPORT_BYTES, reports=True)
            report = decode_report(response.body, request)
        else:
            transfer = InlineTransfer(self._broker)
            body, max_bytes = await transfer.pack(request), BUNDLE_BYTES + BUNDLE_MODELS * task.model.bytes
            try:
                response = await self._call_signed(function, body, bundle.CONTENT_TYPE, call_id, max_bytes)
            except OutcomeUnknown as exc:
                # The response would have carried the update, so this run has failed even if it goes on.
                raise InvocationFailed(exc.reason) from exc
            report = await transfer.publish_reply(response.body, request)
        if report.state != "done":
            reason = report.reason or f"it answered that it is {report.state}"
            raise InvocationFailed(reason, retryable=report.retryable)
        return report

    async def _call_signed(
        self, function: str, body: bytes, content_type: str, call_id: str, max_bytes: int, *, reports: bool = False
    ) -> GatewayResponse:
        headers = {signature.CALL_ID: call_id, "Content-Type": content_type}
        if self._key:
            headers |= signature.sign(self._key, body, call_id, self._clock())
        return await self._call(function, body, headers, max_bytes=max_bytes, reports=reports)

    async def _call(
        self, function: str, body: bytes, headers: dict[str, str], *, max_bytes: int, reports: bool = False
    ) -> GatewayResponse:
        if not NAME.fullmatch(function):
            raise InvocationFailed(f"{function!r} is no function's name", retryable=False)
        timeout_s, namespace = self.settings.start_s + self.settings.run_s, self.settings.namespace
        if "." not in function and namespace != NAMESPACE:
            function = f"{function}.{namespace}"
        response = await self.api.call(function, body, headers, timeout_s=timeout_s, max_bytes=max_bytes)
        error = failure(response, function, reports=reports)
        if isinstance(error, FunctionGone) and await self._exists(function, error):
            error = NotStarted(error.reason)  # it only has no replica now
        if error is not None:
            raise error
        return response

    async def _exists(self, function: str, error: FunctionGone) -> bool:
        """Whether a function exists that seems to be gone; True if the gateway can't be asked now."""
        try:
            return await self.functions.exists(function)
        except PlatformAway:
            return True
        except BridgeError as exc:
            raise as_failed_invocation(exc, f"{error.reason}, and it can't be looked up: ") from exc


@contextlib.asynccontextmanager
async def opened(settings: Settings, secrets: SecretStore, broker: Broker) -> AsyncIterator[OpenFaasPlatform]:
    """Implements `bridges.platform.PlatformModule.opened` for a gateway."""
    key = secrets.value(settings.key).encode() if settings.key else b""
    async with connected(settings, secrets) as api:
        functions = Functions(settings, api, secrets, partial(_created, broker, settings.name))
        platform = OpenFaasPlatform(settings, functions, api, broker, key=key)
        try:
            await api.system("GET", "/info", "check the password")
        except PlatformAway as exc:
            log.warning("the gateway is out of reach; going on", gateway=settings.gateway, error=str(exc))
        else:
            await platform.connector.rebuild()
        yield platform


async def _created(broker: Broker, platform: str) -> list[str]:
    """Return the names of the functions that bridges have created on a platform and not deleted."""
    values = await broker.snapshot(topics.function(platform, topics.ANY))
    return [topic.rpartition(".")[2] for topic in values]
