"""The REST API of one namespace: calls, their errors, and what starts an action.

It is OpenWhisk's `docs/rest_api.md`; what that leaves out is in the controller's sources.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import structlog

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
from broker.errors import UNREADABLE

log = structlog.get_logger(__name__)

REQUEST_S: Final = 30.0
"""How long one request may take. None of ours waits for a run."""

_JSON: Final = {"Content-Type": "application/json"}

_NOTHING_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@dataclass(frozen=True, slots=True)
class Api:
    """A namespace that can be called. Use it as `async with connected(...) as api`.

    Attributes:
        settings: of the bridge.
        http: has the namespace's key; paths are relative to the namespace.
    """

    settings: Settings
    http: httpx.AsyncClient

    async def call(self, method: str, path: str, what: str, **request: Any) -> bytes | None:
        """Ask the platform for something; None: it is not there.

        Args:
            method: of HTTP.
            path: below the namespace.
            what: completes "could not ..." for people.
            request: more arguments for `httpx.AsyncClient.request`.

        Raises:
            PlatformFailed: it did not do it; PlatformAway, if it may do it later.
            PlatformDenied: it refuses the credentials.
        """
        try:
            response = await self.http.request(method, path, **request)
        except httpx.TransportError as exc:
            raise PlatformAway(
                self.settings.name, what, f"{self.settings.host} is out of reach: {type(exc).__name__} {exc}"
            ) from exc
        match response.status_code:
            case 404:
                return None
            case 401 | 403:
                raise self._denied(response)
            case 409 if method != "GET":
                raise PlatformAway(
                    self.settings.name, what, f"somebody else changes it at this moment: {_error_of(response)}"
                )
            case 429 | 500 | 502 | 503 | 504 as status:
                raise PlatformAway(self.settings.name, what, f"HTTP {status}: {_error_of(response)}")
            case status if status >= httpx.codes.BAD_REQUEST:
                raise PlatformFailed(self.settings.name, what, f"HTTP {status}: {_error_of(response)}")
        return response.content

    def _denied(self, response: httpx.Response) -> PlatformDenied:
        """What to say of a response that refuses us."""
        remedy = f"the secret {self.settings.auth!r} must be the namespace's `uuid:key` ({_error_of(response)})"
        return PlatformDenied(self.settings.name, self.settings.host, remedy)

    async def start(self, path: str, body: bytes) -> str:
        """Fire a trigger or invoke an action; returns the id of the activation that it became.

        Args:
            path: below the namespace.
            body: JSON.

        Raises:
            InvocationFailed: it became none; the subclass tells whether something may have run all the same.
            PlatformDenied: the credentials are refused.
        """
        try:
            response = await self.http.post(path, content=body, headers=_JSON)
        except _NOTHING_SENT as exc:
            raise NotStarted(f"{self.settings.host} is out of reach: {type(exc).__name__} {exc}") from exc
        except httpx.TransportError as exc:
            raise OutcomeUnknown(f"{self.settings.host} gave no answer: {type(exc).__name__} {exc}") from exc
        # Whatever the status: a 502 with an activation is the answer to a run that failed, and its record says why.
        activation = _activation_in(response)
        if not activation:
            raise self._refusal(response)
        return activation

    def _refusal(self, response: httpx.Response) -> Exception:
        """What an answer without an activation means."""
        reason = f"HTTP {response.status_code}: {_error_of(response)}"
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
                # From what stands before the controller, which may have taken the call.
                return OutcomeUnknown(reason)
        return InvocationFailed(reason, retryable=False)


@contextlib.asynccontextmanager
async def connected(settings: Settings, vault: SecretStore) -> AsyncIterator[Api]:
    """A namespace's API; nothing is sent before it is used.

    Args:
        settings: where it is, and which certificates to trust.
        vault: holds the namespace's key.

    Raises:
        BadSettings: the address, the key or the certificates can't be used.
        SecretMissing: the namespace's key is not here.
    """
    user, password = _key(settings, vault)
    url = endpoint.parse_url("host", settings.host, "without the key")
    if url.scheme == "http" and url.host not in endpoint.LOOPBACK:
        log.warning("the namespace's key travels in the clear; use https", host=settings.host)
    base, trust = url.join(f"/api/v1/namespaces/{quoted(settings.namespace)}/"), endpoint.ssl_context(settings.ca_file)
    async with httpx.AsyncClient(base_url=base, auth=(user, password), timeout=REQUEST_S, verify=trust) as http:
        yield Api(settings, http)


def quoted(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _key(settings: Settings, vault: SecretStore) -> tuple[str, str]:
    user, _, password = vault.value(settings.auth).strip().partition(":")
    if not user or not password:
        raise BadSettings("auth", settings.auth, "the secret of that name is not `uuid:key`")
    return user, password


def _error_of(response: httpx.Response) -> str:
    """What the platform says is wrong: the `error` of its JSON, else the beginning of what it says."""
    try:
        return str(msgspec.json.decode(response.content, type=dict[str, Any])["error"])
    except (*UNREADABLE, KeyError):
        return " ".join(response.text[:200].split()) or response.reason_phrase


def _activation_in(response: httpx.Response) -> str:
    try:
        return str(msgspec.json.decode(response.content, type=dict[str, Any]).get("activationId", ""))
    except UNREADABLE:
        return ""
