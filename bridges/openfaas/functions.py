"""Creates, updates, deletes and lists the functions of an OpenFaaS gateway."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus as Http
from typing import Any, Final

import msgspec

from bridges.annotations import DIGEST, FABRIC, TOPIC, filters
from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown, PlatformAway, PlatformFailed
from bridges.openfaas.api import Api
from bridges.openfaas.deployment import READY_PATH, Deployment, deployment, own_secrets
from bridges.openfaas.responses import NAME, GatewayResponse, failure
from bridges.openfaas.settings import Settings
from bridges.secrets import SecretStore
from broker.errors import BrokerError
from broker.messages.function import Change, Deployed, Function
from broker.support import loggers

log = loggers.get_logger(__name__)

LIST_TRIES: Final = 3
VISIBLE_S: Final = 5.0
"""Time limit until the gateway shows a change that it accepted (faas-netes reads through a cache); seconds."""

PROBE_S: Final = 10.0
_PROBE_BYTES: Final = 1 << 20


class Status(msgspec.Struct, frozen=True):
    """State of a function as the gateway shows it. The gateway may leave out zeros and empty values.

    Attributes:
        name: name of the function.
        namespace: namespace of the function.
        annotations: annotations of the function.
        secrets: names of the mounted secrets.
        available: number of replicas that are ready.
    """

    name: str
    namespace: str = ""
    annotations: dict[str, str] | None = None
    secrets: list[str] | None = None
    available: int = msgspec.field(name="availableReplicas", default=0)

    @property
    def is_ours(self) -> bool:
        """Whether FedKeeper created the function."""
        return not {FABRIC, DIGEST}.isdisjoint(self.annotations or {})

    def annotation(self, key: str) -> str:
        """Return the value of an annotation; empty if it is missing."""
        return (self.annotations or {}).get(key, "")


@dataclass
class Functions:
    """Implements `bridges.platform.Functions` for a gateway.

    Attributes:
        settings: settings of the bridge.
        api: API of the gateway.
        secrets: holds the secrets that functions need.
        known: names of the functions that were created through a bridge of this platform.
    """

    settings: Settings
    api: Api
    secrets: SecretStore
    known: Callable[[], Awaitable[Sequence[str]]]

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:  # noqa: ARG002 (OpenFaaS runs images)
        """Implements `bridges.platform.Functions.create`."""
        purpose = f"create {function.name}"
        target = deployment(function, self.settings.namespace, self.settings.name)
        status = await self._status(target.service, target.namespace)
        change: Change = "same"
        if status is not None:
            self._require_ours(status, purpose)
        if status is None or status.annotation(DIGEST) != function.digest:
            # Read all secrets first: a missing one must leave the platform unchanged.
            values = {name: self.secrets.value(source) for name, source in target.secrets.items()}
            for name, value in values.items():
                await self._store_secret(name, value, target.namespace, purpose)
            method, change = ("POST", "created") if status is None else ("PUT", "updated")
            self._require_ok(await self.api.system(method, "/functions", purpose, body=target.body), purpose)

        async def visible() -> str:
            shown = await self._status(target.service, target.namespace)
            is_shown = shown is not None and shown.annotation(DIGEST) == function.digest
            return "" if is_shown else "the gateway does not show what it accepted"

        await self._wait(purpose, min(VISIBLE_S, self.settings.ready_s), visible)
        await self._wait(purpose, self.settings.ready_s, lambda: self._unready_reason(target))
        return change, self._to_deployed(Status(target.service, target.namespace, target.annotations))

    async def delete(self, name: str) -> Change:
        """Implements `bridges.platform.Functions.delete`; `name` may end with `.namespace`.

        It deletes the function's own secrets too, and waits until the function is gone.
        """
        purpose = f"delete {name}"
        if not NAME.fullmatch(name):
            raise PlatformFailed(self.settings.name, purpose, "that is no function's name")
        status = await self._find(name)
        if status is None:
            return "absent"
        self._require_ours(status, purpose)
        # faas-netes reads the namespace from the query, faasd from the body.
        body, params = {"functionName": status.name, "namespace": status.namespace}, {"namespace": status.namespace}
        response = await self.api.system("DELETE", "/functions", purpose, params=params, body=body)
        if response.status != Http.NOT_FOUND:
            self._require_ok(response, purpose)

        async def gone() -> str:
            return "it is still there" if await self._status(status.name, status.namespace) else ""

        await self._wait(purpose, self.settings.ready_s, gone)
        for secret in own_secrets(status.name, status.secrets or []):
            await self._delete_secret(secret, status.namespace, purpose)
        return "deleted"

    async def list_all(self) -> list[Deployed]:
        """All functions, ours and others.

        Raises:
            PlatformAway: the gateway can't list them now.
            PlatformFailed: its answer is no list.
            PlatformDenied: it refuses the credentials.
        """
        purpose = "list functions"
        statuses: list[Status] = []
        for namespace in await self._namespaces():
            for tries in itertools.count(1):
                try:
                    response = await self.api.system("GET", "/functions", purpose, params={"namespace": namespace})
                    break
                except PlatformAway as exc:
                    # The gateway drops this call if it has functions and can't reach its Prometheus.
                    if tries == LIST_TRIES:
                        reason = f"{exc.reason} (is the gateway's Prometheus up?)"
                        raise PlatformAway(self.settings.name, purpose, reason) from exc
                await asyncio.sleep(_pause_s(tries))
            self._require_ok(response, purpose)
            statuses += self._decode(response, list[Status] | None, purpose) or []
        return [self._to_deployed(status) for status in statuses]

    async def list(self) -> list[Deployed]:
        """Implements `bridges.platform.Functions.list`, over all namespaces.

        If the gateway can't list (it needs its Prometheus for that), the functions that were created through a bridge
        are looked up one by one; those of others are missing then.
        """
        try:
            return await self.list_all()
        except PlatformAway as exc:
            try:
                # A gateway that is away must not look like one without functions.
                await self.api.system("GET", "/info", "list functions")
                found = [await self._find(name) for name in await self.known()]
            except (PlatformAway, BrokerError):
                raise exc from None
            log.warning("the functions can't be listed; each known one was looked up", error=str(exc))
        return [self._to_deployed(status) for status in found if status is not None]

    async def exists(self, name: str) -> bool:
        """Whether the gateway has a function; `name` may end with `.namespace`."""
        return await self._find(name) is not None

    async def _store_secret(self, name: str, value: str, namespace: str, purpose: str) -> None:
        body = {"name": name, "namespace": namespace, "value": value}
        response = await self._call_secrets("POST", body, purpose)
        if not response.ok and (response.status == Http.CONFLICT or "exist" in response.text):
            response = await self._call_secrets("PUT", body, purpose)
            if not response.ok:
                # faasd can't update a secret.
                await self._delete_secret(name, namespace, purpose)
                response = await self._call_secrets("POST", body, purpose)
        if not response.ok:
            # The response's text is left out: it may contain the secret.
            raise PlatformFailed(self.settings.name, purpose, f"it refuses the secret {name} ({response.status})")

    async def _delete_secret(self, name: str, namespace: str, purpose: str) -> None:
        response = await self._call_secrets("DELETE", {"name": name, "namespace": namespace}, purpose)
        if response.status != Http.NOT_FOUND:
            self._require_ok(response, purpose)

    async def _call_secrets(self, method: str, body: dict[str, str], purpose: str) -> GatewayResponse:
        return await self.api.system(method, "/secrets", purpose, params={"namespace": body["namespace"]}, body=body)

    async def _namespaces(self) -> Sequence[str]:
        """Return the bridge's namespace, then the others. Some gateways can't list namespaces."""
        purpose = "list namespaces"
        response = await self.api.system("GET", "/namespaces", purpose)
        others = self._decode(response, list[str] | None, purpose) if response.ok else None
        return list(dict.fromkeys([self.settings.namespace, *(others or [])]))

    async def _find(self, name: str) -> Status | None:
        name, _, namespace = name.partition(".")
        for candidate in [namespace] if namespace else await self._namespaces():
            if status := await self._status(name, candidate):
                return status
        return None

    async def _status(self, name: str, namespace: str) -> Status | None:
        purpose = f"look up {name}"
        response = await self.api.system("GET", f"/function/{name}", purpose, params={"namespace": namespace})
        if response.status == Http.NOT_FOUND:
            return None
        self._require_ok(response, purpose)
        status: Status = self._decode(response, Status, purpose)
        return msgspec.structs.replace(status, namespace=status.namespace or namespace)

    async def _wait(self, purpose: str, timeout_s: float, unmet: Callable[[], Awaitable[str]]) -> None:
        """Poll until a condition is met, since the gateway sends no notifications.

        Args:
            purpose: completes "could not ..." in errors.
            timeout_s: time limit, in seconds.
            unmet: returns the reason why the condition is not met yet; empty if it is met.

        Raises:
            PlatformFailed: the condition is not met in time.
        """
        reason = ""
        try:
            async with asyncio.timeout(timeout_s):
                for tries in itertools.count():
                    try:
                        reason = await unmet()
                    except PlatformAway as exc:
                        reason = exc.reason
                    if not reason:
                        return
                    await asyncio.sleep(_pause_s(tries))
        except TimeoutError as exc:
            late = f"after {timeout_s:g} s {reason or 'the gateway does not answer'}"
            raise PlatformFailed(self.settings.name, purpose, late) from exc

    async def _unready_reason(self, target: Deployment) -> str:
        """Return the reason why a function can't be called yet; empty if it can."""
        status = await self._status(target.service, target.namespace)
        if status is None or status.available < 1:
            return "no replica is available"
        name = f"{target.service}.{target.namespace}"
        try:
            response = await self.api.call(
                name, b"", {}, timeout_s=PROBE_S, max_bytes=_PROBE_BYTES, method="GET", path=READY_PATH
            )
        except InvocationFailed as exc:
            return exc.reason
        # Any response of the function itself, even a refusal of the unsigned call, shows that it is ready.
        error = failure(response, name)
        return error.reason if isinstance(error, NotStarted | FunctionGone | OutcomeUnknown) else ""

    def _to_deployed(self, status: Status) -> Deployed:
        is_elsewhere = status.namespace not in ("", self.settings.namespace)
        return Deployed(
            name=status.name,
            fabric=status.annotation(FABRIC),
            digest=status.annotation(DIGEST),
            url=f"{status.name}.{status.namespace}" if is_elsewhere else status.name,
            topics=() if status.is_ours else filters(status.annotation(TOPIC)),
        )

    def _require_ours(self, status: Status, purpose: str) -> None:
        if not status.is_ours:
            raise PlatformFailed(self.settings.name, purpose, "a function of that name is somebody else's")

    def _require_ok(self, response: GatewayResponse, purpose: str) -> None:
        if not response.ok:
            reason = f"{response.text or 'no reason given'} ({response.status})"
            raise PlatformFailed(self.settings.name, purpose, reason)

    def _decode(self, response: GatewayResponse, kind: Any, purpose: str) -> Any:
        try:
            return msgspec.json.decode(response.body, type=kind)
        except msgspec.DecodeError as exc:
            reason = f"the answer is not from an OpenFaaS gateway: {exc}"
            raise PlatformFailed(self.settings.name, purpose, reason) from exc


def _pause_s(tries: int) -> float:
    """Return the pause before the next try, in seconds: it grows from 0.03 to 1."""
    return min(1.0, 0.03 * 1.5 ** min(tries, 16))
