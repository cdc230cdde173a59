"""OpenWhisk: fires a client's trigger or invokes its action, and follows the activation to its record.

A trigger's 202 does not say that the action was taken: only the record of the fire does, and it comes later.
"""

import asyncio
import contextlib
import itertools
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import httpx
import msgspec
import structlog
from msgspec import Meta

from bridges.errors import (
    BadSettings,
    FunctionGone,
    InvocationFailed,
    LostSight,
    NotStarted,
    PlatformAway,
    PlatformFailed,
)
from bridges.openwhisk import activations
from bridges.openwhisk.activations import Record
from bridges.openwhisk.functions import Functions, error_of, trigger_of
from bridges.platform import Activation, Host
from bridges.secrets import Vault
from broker.base import Broker
from broker.errors import UNREADABLE
from broker.messages import codec
from broker.messages.invocation import Order
from broker.messages.job import AtLeastOne, Positive
from broker.messages.round import RoundTask
from broker.support import backoff

log = structlog.get_logger(__name__)

BODY_BYTES: Final = 1 << 20
"""The largest trigger that a controller takes."""

REQUEST_S: Final = 30.0
"""How long one request may take. None of ours waits for a run."""

_HOSTS: Final = "use https://HOST or https://HOST:PORT, without the key"

_JSON: Final = {"Content-Type": "application/json"}

_NOTHING_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bridge to one namespace of an OpenWhisk.

    Attributes:
        name: the platform's level of the task topics.
        host: base address, such as `https://openwhisk.example.org`.
        namespace: `_` is the key's own.
        auth: name of the secret that is the namespace's key, `uuid:key`.
        ca_file: certificates to trust instead of the system's, for a self-signed one; empty: the system's.
        invoke: `trigger` fires a trigger that a rule ties to the action; `action` invokes the action itself, which
            is quicker by one record and keeps the namespace's key out of what the function gets.
        kind: runtime of functions that name none.
        concurrency: invocations under way at the most; fewer if the namespace allows fewer.
        timeout_s: the longest that a function may run here.
        start_s: how long a function may take from `accepted` until it reports that it trains.
        settle_s: how long after its end a run's record may still be on its way into the store.
        poll_first_s: how soon a record is first looked for; the time between looks doubles.
        poll_most_s: the longest time between two looks.
    """

    host: str
    auth: str
    name: str = "openwhisk"
    namespace: str = "_"
    ca_file: str = ""
    invoke: Literal["trigger", "action"] = "trigger"
    kind: str = "python:3.11"
    concurrency: AtLeastOne = 30
    timeout_s: Positive = 300.0
    start_s: Positive = 120.0
    settle_s: Annotated[float, Meta(ge=0)] = 60.0
    poll_first_s: Positive = 0.5
    poll_most_s: Positive = 10.0


class _Limits(msgspec.Struct, frozen=True, rename="camel"):
    """Of a namespace. Which of them are told depends on the installation, and one that is not set may be null."""

    concurrent_invocations: int | None = None
    invocations_per_minute: int | None = None
    fires_per_minute: int | None = None


@dataclass(kw_only=True)
class OpenWhisk(Functions):
    """A namespace: its functions and their invocation; see `bridges.platform.Host`."""

    settings: Settings
    limits: _Limits | None = None
    rng: random.Random = field(default_factory=random.Random)

    @property
    def concurrency(self) -> int:
        """See `Host`."""
        limit = self.limits.concurrent_invocations if self.limits else None
        return min(self.settings.concurrency, limit or self.settings.concurrency)

    @property
    def per_minute(self) -> int:
        """See `Host`. A fire counts as one, and the invocation that it leads to as another."""
        limits = self.limits or _Limits()
        fires = limits.fires_per_minute if self.triggered else None
        return min([rate for rate in (limits.invocations_per_minute, fires) if rate], default=0)

    @property
    def start_s(self) -> float:
        """See `Host`."""
        return self.settings.start_s

    @property
    def run_s(self) -> float:
        """See `Host`. Twice the time limit: a run may have had to wait for one that takes as long."""
        return 2 * self.settings.timeout_s + self.settings.settle_s

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Trigger the function and follow the run to its record; see `Platform.invoke`."""
        body = codec.encode({"order": Order(task, attempt)})
        if len(body) > BODY_BYTES:
            reason = f"a task of {len(body)} bytes is more than OpenWhisk takes ({BODY_BYTES})"
            raise InvocationFailed(reason, retryable=False)
        if self.limits is None:
            await self.learn_limits()
        activation = await self._accepted(task, body)
        yield Activation(activation, "accepted")
        record = await self._record(activation, self.run_s)
        activations.raise_for_failure(record, task, activation)
        yield Activation(activation, "succeeded", record.cold)

    async def _accepted(self, task: RoundTask, body: bytes) -> str:
        """Have the action run; the id of its activation."""
        if not self.triggered:
            return await self._post(f"actions/{_quoted(task.url or task.client_id)}?blocking=false", body)
        fire = await self._post(f"triggers/{_quoted(task.url or trigger_of(task.client_id))}", body)
        record = await self._record(fire, self.settings.settle_s)
        return activations.run_of(record, task.client_id, fire)

    async def _post(self, path: str, body: bytes) -> str:
        """Send a trigger; the id of the activation that it became."""
        try:
            response = await self.client.post(path, content=body, headers=_JSON)
        except _NOTHING_SENT as exc:
            raise NotStarted(f"{self.where} is out of reach: {type(exc).__name__} {exc}") from exc
        except httpx.TransportError as exc:
            raise LostSight(f"{self.where} gave no answer: {type(exc).__name__} {exc}") from exc
        # Whatever the status: a 502 with an activation is the answer to a run that failed, and its record says why.
        activation = _activation_in(response)
        if not activation:
            raise self._refusal(response)
        return activation

    def _refusal(self, response: httpx.Response) -> Exception:
        """What an answer without an activation means."""
        reason = f"HTTP {response.status_code}: {error_of(response)}"
        match response.status_code:
            case 401 | 403:
                return self.denied(response)
            case 204:
                return FunctionGone("its trigger has no active rule, so nothing ran")
            case 404:
                return FunctionGone(reason)
            case 429 | 500 | 503:
                return NotStarted(reason)
            case 502 | 504:
                # From what stands before the controller, which may have taken the call.
                return LostSight(reason)
        return InvocationFailed(reason, retryable=False)

    async def _record(self, activation: str, within_s: float) -> Record:
        """The record of an activation, which is there some time after its end.

        Raises:
            LostSight: it was not there in time.
        """
        try:
            async with asyncio.timeout(within_s):
                for look in itertools.count():
                    first_s, most_s = self.settings.poll_first_s, self.settings.poll_most_s
                    await asyncio.sleep(backoff.delay_s(look, self.rng.uniform, first_s=first_s, most_s=most_s))
                    record = await self._stored(activation)
                    if record is not None:
                        return record
        except TimeoutError:
            pass
        raise LostSight(f"no record of activation {activation} after {within_s:g} s", activation=activation)

    async def _stored(self, activation: str) -> Record | None:
        """The record as it is now; None: not stored yet, or the platform is away for the moment."""
        try:
            content = await self.call("GET", f"activations/{_quoted(activation)}", f"tell of {activation}")
        except PlatformAway as exc:
            log.warning("can't look at an activation now", activation=activation, error=str(exc))
            return None
        except PlatformFailed as exc:
            raise LostSight(str(exc), activation=activation) from exc
        return None if content is None else activations.decoded(content, activation)

    async def learn_limits(self) -> None:
        """Ask for the namespace's limits. A platform that does not tell has none; one that is away is asked again.

        Raises:
            PlatformDenied: the namespace's key is refused.
        """
        try:
            content = await self.call("GET", "limits", "tell its limits")
            self.limits = msgspec.json.decode(content or b"{}", type=_Limits)
        except PlatformAway as exc:
            log.warning("the namespace's limits are not known yet", host=self.where, error=str(exc))
        except (PlatformFailed, *UNREADABLE) as exc:
            self.limits = _Limits()
            log.warning("the namespace's limits are not known", host=self.where, error=str(exc))


@contextlib.asynccontextmanager
async def opened(settings: Settings, vault: Vault, broker: Broker) -> AsyncIterator[Host]:  # noqa: ARG001 (every adapter's)
    """A connection to a namespace. A platform that is out of reach is no error: it may come back.

    Raises:
        BadSettings: a setting can't be used.
        SecretMissing: the namespace's key is not here.
        PlatformDenied: the namespace's key is refused.
    """
    user, _, password = _key(settings, vault)
    options: dict[str, Any] = {"auth": (user, password), "timeout": REQUEST_S, "verify": _trusted(settings)}
    async with httpx.AsyncClient(base_url=_base(settings), **options) as client:
        platform = OpenWhisk(
            name=settings.name,
            client=client,
            vault=vault,
            where=settings.host,
            auth=settings.auth,
            kind=settings.kind,
            triggered=settings.invoke == "trigger",
            settings=settings,
        )
        await platform.learn_limits()
        yield platform


def _key(settings: Settings, vault: Vault) -> tuple[str, str, str]:
    parts = vault.value(settings.auth).strip().partition(":")
    if not all(parts):
        raise BadSettings("auth", settings.auth, "the secret of that name is not `uuid:key`")
    return parts


def _base(settings: Settings) -> httpx.URL:
    """Where the namespace is."""
    try:
        url = httpx.URL(settings.host)
    except httpx.InvalidURL as exc:
        raise BadSettings("host", settings.host, f"{exc}; {_HOSTS}") from exc
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo:
        raise BadSettings("host", url.host, _HOSTS)
    if url.scheme == "http" and url.host not in {"127.0.0.1", "::1", "localhost"}:
        log.warning("the namespace's key travels in the clear; use https", host=settings.host)
    return url.join(f"/api/v1/namespaces/{_quoted(settings.namespace)}/")


def _trusted(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=Path(settings.ca_file) if settings.ca_file else None)
    except OSError as exc:
        raise BadSettings("ca_file", settings.ca_file, f"no certificates can be read from it: {exc}") from exc


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _activation_in(response: httpx.Response) -> str:
    try:
        return str(msgspec.json.decode(response.content, type=dict[str, Any]).get("activationId", ""))
    except UNREADABLE:
        return ""
