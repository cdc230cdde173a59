"""The functions on an OpenFaaS gateway: made, changed, deleted and listed."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus as Http
from typing import Any, Final

import msgspec

from bridges.annotations import DIGEST, FABRIC, TOPIC, filters
from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown, PlatformAway, PlatformFailed
from bridges.openfaas.answers import NAME, GatewayResponse, failure
from bridges.openfaas.api import Api
from bridges.openfaas.deployment import Deployment, deployment, secret_names
from bridges.openfaas.settings import Settings
from bridges.secrets import SecretStore
from broker.messages.function import Change, Deployed, Function

LIST_TRIES: Final = 3
VISIBLE_S: Final = 5.0
"""What was accepted is shown by then (faas-netes reads through a cache), or it was not done after all."""

PROBE_S: Final = 10.0
_PROBE_BYTES: Final = 1 << 20


class Status(msgspec.Struct, frozen=True):
    """What the gateway says of a function; zeros and what is empty it may leave out."""

    name: str
    namespace: str = ""
    annotations: dict[str, str] | None = None
    secrets: list[str] | None = None
    available: int = msgspec.field(name="availableReplicas", default=0)

    @property
    def notes(self) -> dict[str, str]:
        """The annotations."""
        return self.annotations or {}

    @property
    def ours(self) -> bool:
        """We made it."""
        return FABRIC in self.notes or DIGEST in self.notes


@dataclass
class Functions:
    """The functions of a gateway; see `bridges.platform.Functions`.

    Attributes:
        settings: of the bridge.
        api: of the gateway.
        vault: holds the secrets that functions need.
    """

    settings: Settings
    api: Api
    vault: SecretStore

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:  # noqa: ARG002 (OpenFaaS runs images)
        """Bring a function to what it should be, and wait until it can be invoked."""
        what = f"create {function.name}"
        wanted = deployment(function, self.settings.namespace, self.settings.name)
        change = await self._brought_about(function, wanted, what)
        await self._until(
            what, min(VISIBLE_S, self.settings.ready_s), lambda: self._why_not_shown(wanted, function.digest)
        )
        await self._until(what, self.settings.ready_s, lambda: self._why_not_ready(wanted))
        return change, self._deployed(Status(wanted.service, wanted.namespace, wanted.annotations))

    async def delete(self, name: str) -> Change:
        """Delete a function of ours (`name.namespace` too) and its secrets, and wait until it is gone."""
        what = f"delete {name}"
        if not NAME.fullmatch(name):
            raise PlatformFailed(self.settings.name, what, "that is no function's name")
        found = await self._found(name)
        if found is None:
            return "absent"
        self._require_ours(found, what)
        body, params = {"functionName": found.name, "namespace": found.namespace}, {"namespace": found.namespace}
        # faas-netes reads the namespace from the query, faasd from the body.
        answer = await self.api.system("DELETE", "/functions", what, params=params, body=body)
        if answer.status != Http.NOT_FOUND:
            self._require(answer, what)
        await self._until(what, self.settings.ready_s, lambda: self._why_not_gone(found))
        for secret in secret_names(found.name, found.secrets or []):
            await self._forget_secret(secret, found.namespace, what)
        return "deleted"

    async def list(self) -> list[Deployed]:
        """Every function of every namespace."""
        return [self._deployed(each) for namespace in await self._namespaces() for each in await self._in(namespace)]

    async def exists(self, name: str) -> bool:
        """Whether the gateway has a function of that name (`name` or `name.namespace`)."""
        return await self._found(name) is not None

    async def _brought_about(self, function: Function, wanted: Deployment, what: str) -> Change:
        have = await self._status(function.name, wanted.namespace)
        if have is not None:
            self._require_ours(have, what)
            if have.notes.get(DIGEST) == function.digest:
                return "same"
        secrets = {name: self.vault.value(source) for name, source in wanted.sources.items()}
        for name, value in secrets.items():
            await self._keep_secret(name, value, wanted.namespace, what)
        method = "POST" if have is None else "PUT"
        self._require(await self.api.system(method, "/functions", what, body=wanted.body), what)
        return "created" if have is None else "updated"

    async def _keep_secret(self, name: str, value: str, namespace: str, what: str) -> None:
        body = {"name": name, "namespace": namespace, "value": value}
        answer = await self._secret("POST", body, what)
        if not answer.ok and (answer.status == Http.CONFLICT or "exist" in answer.text):
            answer = await self._secret("PUT", body, what)
            if not answer.ok:
                # faasd has no update of secrets.
                await self._forget_secret(name, namespace, what)
                answer = await self._secret("POST", body, what)
        if not answer.ok:
            # Not what the gateway says of it: it was told the secret.
            raise PlatformFailed(self.settings.name, what, f"it refuses the secret {name} ({answer.status})")

    async def _forget_secret(self, name: str, namespace: str, what: str) -> None:
        answer = await self._secret("DELETE", {"name": name, "namespace": namespace}, what)
        if answer.status != Http.NOT_FOUND:
            self._require(answer, what)

    async def _secret(self, method: str, body: dict[str, str], what: str) -> GatewayResponse:
        params = {"namespace": body["namespace"]}
        return await self.api.system(method, "/secrets", what, params=params, body=body)

    async def _namespaces(self) -> Sequence[str]:
        """Our own, then the others; a gateway may know of none, or not even know the question."""
        answer = await self.api.system("GET", "/namespaces", "list namespaces")
        others = self._decoded(answer, list[str] | None, "list namespaces") if answer.ok else None
        return list(dict.fromkeys([self.settings.namespace, *(others or [])]))

    async def _in(self, namespace: str) -> Sequence[Status]:
        what = "list functions"
        for tries in itertools.count(1):
            try:
                answer = await self.api.system("GET", "/functions", what, params={"namespace": namespace})
                break
            except PlatformAway as exc:
                # It drops this very call while there are functions and its Prometheus is out of reach.
                if tries == LIST_TRIES:
                    reason = f"{exc.reason} (is the gateway's Prometheus up?)"
                    raise PlatformAway(self.settings.name, what, reason) from exc
            await asyncio.sleep(_pause_s(tries))
        self._require(answer, what)
        return self._decoded(answer, list[Status] | None, what) or []

    async def _found(self, name: str) -> Status | None:
        name, _, namespace = name.partition(".")
        for each in [namespace] if namespace else await self._namespaces():
            if found := await self._status(name, each):
                return found
        return None

    async def _status(self, name: str, namespace: str) -> Status | None:
        what = f"look up {name}"
        answer = await self.api.system("GET", f"/function/{name}", what, params={"namespace": namespace})
        if answer.status == Http.NOT_FOUND:
            return None
        self._require(answer, what)
        found: Status = self._decoded(answer, Status, what)
        return msgspec.structs.replace(found, namespace=found.namespace or namespace)

    async def _until(self, what: str, within_s: float, why_not: Callable[[], Awaitable[str]]) -> None:
        """Ask until there is no reason why not any more: the gateway tells nobody of its own accord."""
        reason = ""
        try:
            async with asyncio.timeout(within_s):
                for tries in itertools.count():
                    reason = await self._or_away(why_not)
                    if not reason:
                        return
                    await asyncio.sleep(_pause_s(tries))
        except TimeoutError as exc:
            late = f"after {within_s:g} s {reason or 'the gateway does not answer'}"
            raise PlatformFailed(self.settings.name, what, late) from exc

    async def _or_away(self, why_not: Callable[[], Awaitable[str]]) -> str:
        try:
            return await why_not()
        except PlatformAway as exc:
            return exc.reason

    async def _why_not_gone(self, gone: Status) -> str:
        return "it is still there" if await self._status(gone.name, gone.namespace) else ""

    async def _why_not_shown(self, wanted: Deployment, digest: str) -> str:
        found = await self._status(wanted.service, wanted.namespace)
        return "" if found and found.notes.get(DIGEST) == digest else "the gateway does not show what it accepted"

    async def _why_not_ready(self, wanted: Deployment) -> str:
        found = await self._status(wanted.service, wanted.namespace)
        if found is None or found.available < 1:
            return "no replica is available"
        name = f"{wanted.service}.{wanted.namespace}"
        try:
            answer = await self.api.call(
                name, b"", {}, within_s=PROBE_S, at_most=_PROBE_BYTES, method="GET", path=wanted.ready_path
            )
        except InvocationFailed as exc:
            return exc.reason
        # Whatever the function itself says of a call that is not signed: it is there.
        reason = failure(answer, name)
        return reason.reason if isinstance(reason, NotStarted | FunctionGone | OutcomeUnknown) else ""

    def _deployed(self, status: Status) -> Deployed:
        elsewhere = status.namespace not in ("", self.settings.namespace)
        return Deployed(
            name=status.name,
            fabric=status.notes.get(FABRIC, ""),
            digest=status.notes.get(DIGEST, ""),
            url=f"{status.name}.{status.namespace}" if elsewhere else status.name,
            topics=() if status.ours else filters(status.notes.get(TOPIC, "")),
        )

    def _require_ours(self, status: Status, what: str) -> None:
        if not status.ours:
            raise PlatformFailed(self.settings.name, what, "a function of that name is somebody else's")

    def _require(self, answer: GatewayResponse, what: str) -> None:
        if not answer.ok:
            raise PlatformFailed(self.settings.name, what, f"{answer.text or 'no reason given'} ({answer.status})")

    def _decoded(self, answer: GatewayResponse, kind: Any, what: str) -> Any:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.DecodeError as exc:
            raise PlatformFailed(self.settings.name, what, f"its answer is no OpenFaaS gateway's: {exc}") from exc


def _pause_s(tries: int) -> float:
    return min(1.0, 0.03 * 1.5 ** min(tries, 16))
