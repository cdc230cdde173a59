"""The `openfaas` platform: functions behind an OpenFaaS gateway (faasd on Jetson boards, Kubernetes).

They are called synchronously, never by `/async-function`: its queue accepts calls of functions that do not exist,
retries nothing, and runs what takes long twice.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

import structlog

from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown, PlatformAway
from bridges.openfaas.answers import NAME, GatewayResponse, failure
from bridges.openfaas.api import Api, connected
from bridges.openfaas.connector import Connector
from bridges.openfaas.functions import Functions
from bridges.openfaas.inline import InlineTransfer, report_of
from bridges.openfaas.settings import NAMESPACE, Settings
from bridges.platform import Activation, BasePlatform
from bridges.secrets import SecretStore
from broker import topics
from broker.base import Broker
from broker.messages import bundle, codec, signature
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.round import RoundTask

log = structlog.get_logger(__name__)

REPORT_BYTES: Final = 64 << 10

PARCEL_BYTES: Final = 16 << 20
PARCEL_MODELS: Final = 8
"""An update is as large as the model, Adam's state twice that, and four times for a model in half precision."""


class OpenFaasPlatform(BasePlatform[Settings, Functions]):
    """The functions of one gateway. Use it as `async with opened(...) as platform`.

    Args:
        settings: of the bridge.
        functions: creates, deletes and lists them.
        api: of the gateway.
        broker: where the updates of functions go that have no route to it.
        key: what calls are signed with; empty: they are not.
        clock: seconds since the epoch.

    Attributes:
        api: of the gateway.
        connector: which functions of others want which topic.
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
        self.connector = Connector(broker, settings.name, functions.list, self._forward, rebuild_s=settings.rebuild_s)
        self._broker = broker
        self._key = key
        self._clock = clock

    @property
    def per_minute(self) -> int:
        """See `bridges.platform.ManagedPlatform`."""
        return self.settings.per_minute

    @property
    def run_s(self) -> float:
        """See `bridges.platform.ManagedPlatform`."""
        return self.settings.run_s

    async def serve(self) -> None:
        """Follow the annotations of other people's functions, and hand events to them; until cancelled."""
        await self.connector.serve()

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Call the client's function and wait until it has published, or answered; see `bridges.platform.Platform`.

        Nothing is known of a call before its answer: that training began, the function itself reports.
        """
        call_id = str(uuid.uuid4())  # as the gateway itself would make one
        try:
            report = _done(await self._asked(InvocationRequest(task, attempt), call_id))
        except InvocationFailed as exc:
            exc.activation = call_id
            raise
        yield Activation(call_id, "succeeded", report.cold)

    async def _asked(self, request: InvocationRequest, call_id: str) -> Report:
        task = request.task
        function = task.url or self.connector.serving(topics.task(self.name, task.client_id)) or task.client_id
        if self.settings.reply == "broker":
            answer = await self._called(function, codec.encode(request), "application/json", call_id, REPORT_BYTES)
            return report_of(answer.body, request)
        carrier, at_most = InlineTransfer(self._broker), PARCEL_BYTES + PARCEL_MODELS * task.model.bytes
        try:
            answer = await self._called(function, await carrier.packed(request), bundle.CONTENT_TYPE, call_id, at_most)
        except OutcomeUnknown as exc:
            # Whatever becomes of the run, its update is lost with the answer.
            raise InvocationFailed(exc.reason) from exc
        return await carrier.unpacked(answer.body, request)

    async def _called(self, function: str, body: bytes, kind: str, call_id: str, at_most: int) -> GatewayResponse:
        headers = {signature.CALL_ID: call_id, "Content-Type": kind}
        if self._key:
            headers |= signature.sign(self._key, body, call_id, self._clock())
        return await self._call(function, body, headers, at_most)

    async def _forward(self, function: str, payload: bytes, headers: dict[str, str]) -> None:
        """Hand an event to somebody else's function; what it answers is of no interest."""
        await self._call(function, payload, headers, PARCEL_BYTES)

    async def _call(self, function: str, body: bytes, headers: dict[str, str], at_most: int) -> GatewayResponse:
        if not NAME.fullmatch(function):
            raise InvocationFailed(f"{function!r} is no function's name", retryable=False)
        within_s, namespace = self.settings.start_s + self.settings.run_s, self.settings.namespace
        if "." not in function and namespace != NAMESPACE:
            function = f"{function}.{namespace}"
        answer = await self.api.call(function, body, headers, within_s=within_s, at_most=at_most)
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
async def opened(settings: Settings, vault: SecretStore, broker: Broker) -> AsyncIterator[OpenFaasPlatform]:
    """A gateway whose functions can be called; see `bridges.platform.PlatformModule`."""
    key = vault.value(settings.key).encode() if settings.key else b""
    async with connected(settings, vault) as api:
        platform = OpenFaasPlatform(settings, Functions(settings, api, vault), api, broker, key=key)
        try:
            await api.system("GET", "/info", "check the password")
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
