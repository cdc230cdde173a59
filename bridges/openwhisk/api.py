"""Client of the REST API of one OpenWhisk namespace.

OpenWhisk's `docs/rest_api.md` describes the API. The controller's sources contain more details.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from bridges import endpoint
from bridges.errors import (
    BadSettings,
    FunctionGone,
    InvocationFailed,
    NotStarted,
    OutcomeUnknown,
    PlatformAway,
    PlatformDenied,
    PlatformFailed,
)
from bridges.openwhisk.settings import Settings
from bridges.secrets import SecretStore
from broker.support import loggers
from broker.support.decoding import UNREADABLE

log = loggers.get_logger(__name__)

REQUEST_S: Final = 30.0
"""Time limit of one request, in seconds. No request waits for a run."""

_JSON: Final = {"Content-Type": "application/json"}

_NOTHING_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@dataclass(frozen=True, slots=True)
class Api:
    """Calls one namespace. Use it as `async with connected(...) as api`.

    Attributes:
        settings: settings of the bridge.
        http: client with the namespace's key; paths are relative to the namespace.
    """

    settings: Settings
    http: httpx.AsyncClient

    async def call(self, method: str, path: str, purpose: str, **request: Any) -> bytes | None:
        """Send a request and return the content of its response; None if the entity does not exist.

        Args:
            method: HTTP method.
            path: path below the namespace.
            purpose: completes "could not ..." in errors.
            request: more arguments of `httpx.AsyncClient.request`.

        Raises:
            PlatformAway: the platform is not reachable, or may accept the same request later.
            PlatformFailed: the platform refuses the request.
            PlatformDenied: the platform refuses the credentials.
        """
        try:
            response = await self.http.request(method, path, **request)
        except httpx.TransportError as exc:
            reason = f"{self.settings.host} is out of reach: {type(exc).__name__} {exc}"
            raise PlatformAway(self.settings.name, purpose, reason) from exc
        match response.status_code:
            case 404:
                return None
            case 401 | 403:
                raise self._denied(response)
            case 409 if method != "GET":
                reason = f"another user changes it at this moment: {_error_text(response)}"
                raise PlatformAway(self.settings.name, purpose, reason)
            case 429 | 500 | 502 | 503 | 504 as status:
                raise PlatformAway(self.settings.name, purpose, f"HTTP {status}: {_error_text(response)}")
            case status if status >= httpx.codes.BAD_REQUEST:
                raise PlatformFailed(self.settings.name, purpose, f"HTTP {status}: {_error_text(response)}")
        return response.content

    async def start(self, path: str, body: bytes) -> str:
        """Fire a trigger or invoke an action, and return the id of its activation.

        Args:
            path: path below the namespace.
            body: arguments, in JSON.

        Raises:
            InvocationFailed: there is no activation. The subclass tells whether something may run nevertheless.
            PlatformDenied: the platform refuses the credentials.
        """
        try:
            response = await self.http.post(path, content=body, headers=_JSON)
        except _NOTHING_SENT as exc:
            raise NotStarted(f"{self.settings.host} is out of reach: {type(exc).__name__} {exc}") from exc
        except httpx.TransportError as exc:
            raise OutcomeUnknown(f"{self.settings.host} gave no answer: {type(exc).__name__} {exc}") from exc
        # The status does not matter here: a 502 with an activation means that the run failed, and its record says why.
        try:
            activation = str(msgspec.json.decode(response.content, type=dict[str, Any]).get("activationId", ""))
        except UNREADABLE:
            activation = ""
        if not activation:
            raise self._refusal(response)
        return activation

    def _refusal(self, response: httpx.Response) -> Exception:
        """Return the error that a response without an activation stands for."""
        reason = f"HTTP {response.status_code}: {_error_text(response)}"
        match response.status_code:
            case 401 | 403:
                return self._denied(response)
            case 204:
                return FunctionGone("its trigger has no active rule, so nothing ran")
            case 404:
                return FunctionGone(reason)
            case 429 | 500 | 503:
                return NotStarted(reason)
            case 502 | 504:
                # A proxy in front of the controller sent it. The controller may have accepted the call.
                return OutcomeUnknown(reason)
        return InvocationFailed(reason, retryable=False)

    def _denied(self, response: httpx.Response) -> PlatformDenied:
        remedy = f"the secret {self.settings.auth!r} must be the namespace's `uuid:key` ({_error_text(response)})"
        return PlatformDenied(self.settings.name, self.settings.host, remedy)


@contextlib.asynccontextmanager
async def connected(settings: Settings, secrets: SecretStore) -> AsyncIterator[Api]:
    """Yield the API of a namespace. The first call opens the connection.

    Args:
        settings: address, namespace and trusted certificates.
        secrets: holds the namespace's key.

    Raises:
        BadSettings: the address, the key or the certificates are not usable.
        SecretMissing: the namespace's key is not in `secrets`.
    """
    user, _, password = secrets.value(settings.auth).strip().partition(":")
    if not user or not password:
        raise BadSettings("auth", settings.auth, "the secret of that name is not `uuid:key`")
    url = endpoint.parse_url("host", settings.host, "without the key")
    if url.scheme == "http" and url.host not in endpoint.LOOPBACK:
        log.warning("the namespace's key travels in the clear; use https", host=settings.host)
    base, trust = url.join(f"/api/v1/namespaces/{quoted(settings.namespace)}/"), endpoint.ssl_context(settings.ca_file)
    async with httpx.AsyncClient(
        base_url=base,
        auth=(user, password),
        timeout=REQUEST_S,
        verify=trust,
        trust_env=endpoint.may_use_proxy(url),
    ) as http:
        yield Api(settings, http)


def quoted(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="")


def _error_text(response: httpx.Response) -> str:
    """Return the `error` of a response's JSON, or else the start of its text."""
    try:
        return str(msgspec.json.decode(response.content, type=dict[str, Any])["error"])
    except (*UNREADABLE, KeyError):
        return " ".join(response.text[:200].split()) or response.reason_phrase
