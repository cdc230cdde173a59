"""HTTP client of an OpenFaaS gateway. Only `/system` gets our credentials; `/function` never does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus as Http
from typing import Any, Final

import httpx
import msgspec

from bridges import endpoint
from bridges.errors import InvocationFailed, NotStarted, OutcomeUnknown, PlatformAway, PlatformDenied, PlatformFailed
from bridges.openfaas.responses import GatewayResponse
from bridges.openfaas.settings import Settings
from bridges.secrets import SecretStore

CONNECT_S: Final = 5.0
WRITE_S: Final = 60.0
"""Limit for each piece of a request's body, not for the whole body."""

SYSTEM_S: Final = 30.0
SYSTEM_BYTES: Final = 16 << 20

_INTERNAL: Final = "X-OpenFaaS-Internal"
_DURATION: Final = "X-Duration-Seconds"
_NEVER_CONNECTED: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Api:
    """Calls one gateway. Use it as `async with connected(...) as api`.

    Attributes:
        settings: settings of the bridge.
        http: client with the gateway's address as base URL.
        auth: credentials for `/system`. They must not go to `/function`, since a function sees all headers of its call.
    """

    settings: Settings
    http: httpx.AsyncClient
    auth: httpx.BasicAuth | None

    async def system(
        self, method: str, path: str, purpose: str, *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> GatewayResponse:
        """Call the gateway's own API and return its response.

        Args:
            method: HTTP method.
            path: path below `/system`.
            purpose: completes "could not ..." in errors.
            params: query parameters.
            body: content, sent as JSON.

        Raises:
            PlatformDenied: the gateway refuses the credentials.
            PlatformAway: the gateway is not reachable, closes the connection, or is too busy.
            PlatformFailed: the response is larger than SYSTEM_BYTES.
        """
        content = b"" if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if content else {}
        request = self.http.build_request(
            method, f"/system{path}", params=params or {}, content=content, headers=headers
        )
        try:
            async with asyncio.timeout(SYSTEM_S):
                response = await self._send(request, SYSTEM_BYTES, self.auth)
        except _TooLarge as exc:
            raise PlatformFailed(self.settings.name, purpose, str(exc)) from exc
        except TimeoutError as exc:
            raise PlatformAway(self.settings.name, purpose, f"no answer within {SYSTEM_S:g} s") from exc
        except httpx.TransportError as exc:
            raise PlatformAway(self.settings.name, purpose, _text_of(exc)) from exc
        match response.status:
            case Http.UNAUTHORIZED | Http.FORBIDDEN:
                remedy = "check the bridge's `username`, and the secret that `password` names"
                raise PlatformDenied(self.settings.name, self.settings.gateway, remedy)
            case Http.TOO_MANY_REQUESTS | Http.BAD_GATEWAY | Http.SERVICE_UNAVAILABLE | Http.GATEWAY_TIMEOUT:
                raise PlatformAway(self.settings.name, purpose, f"the gateway answers {response.status}")
        return response

    async def call(
        self,
        function: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        max_bytes: int,
        method: str = "POST",
        path: str = "",
    ) -> GatewayResponse:
        """Call a function and return its complete response.

        Args:
            function: name of the function, optionally followed by `.namespace`.
            body: content of the request.
            headers: HTTP headers; the function sees them.
            timeout_s: time limit for the complete response, in seconds.
            max_bytes: size limit of the response's body.
            method: HTTP method.
            path: path below the function.

        Raises:
            NotStarted: no connection was made, so nothing ran.
            OutcomeUnknown: the response did not come in time, or the connection broke during the call.
            InvocationFailed: the response is larger than `max_bytes`.
        """
        url = f"/function/{function}{path}"
        request = self.http.build_request(method, url, content=body, headers=dict(headers))
        try:
            async with asyncio.timeout(timeout_s):
                return await self._send(request, max_bytes, None)
        except _TooLarge as exc:
            raise InvocationFailed(f"{function}: {exc}") from exc
        except _NEVER_CONNECTED as exc:
            raise NotStarted(f"the gateway is out of reach: {_text_of(exc)}") from exc
        except TimeoutError as exc:
            raise OutcomeUnknown(f"no answer of {function} within {timeout_s:g} s") from exc
        except httpx.TransportError as exc:
            raise OutcomeUnknown(f"the connection broke during the call of {function}: {_text_of(exc)}") from exc

    async def _send(self, request: httpx.Request, max_bytes: int, auth: httpx.BasicAuth | None) -> GatewayResponse:
        start_s = time.monotonic()
        response = await self.http.send(request, stream=True, auth=auth)
        body = bytearray()
        try:
            async for part in response.aiter_raw():
                body += part
                if len(body) > max_bytes:
                    raise _TooLarge(f"an answer of more than {max_bytes} bytes")
        finally:
            await response.aclose()
        try:
            took_s = float(response.headers.get(_DURATION, ""))
        except ValueError:  # the header is missing, or a proxy changed it
            took_s = time.monotonic() - start_s
        return GatewayResponse(response.status_code, response.headers.get(_INTERNAL, ""), bytes(body), took_s)


@contextlib.asynccontextmanager
async def connected(settings: Settings, secrets: SecretStore) -> AsyncIterator[Api]:
    """Yield the API of a gateway. The first call opens the connection.

    Args:
        settings: gateway address, user name and trusted certificates.
        secrets: holds the password that the settings name.

    Raises:
        BadSettings: the address or the certificates are not usable.
        SecretMissing: the password is not in `secrets`.
    """
    url = endpoint.parse_url("gateway", settings.gateway, "with `username` and `password` apart")
    auth = httpx.BasicAuth(settings.username, secrets.value(settings.password)) if settings.password else None
    # Each call limits its own time. Compressed responses are off, because their real size is not known.
    timeout, headers = httpx.Timeout(None, connect=CONNECT_S, write=WRITE_S), {"Accept-Encoding": "identity"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    trust, may_use_proxy = endpoint.ssl_context(settings.ca_file), endpoint.may_use_proxy(url)
    async with httpx.AsyncClient(
        base_url=url, verify=trust, timeout=timeout, limits=limits, headers=headers, trust_env=may_use_proxy
    ) as http:
        yield Api(settings, http, auth)


class _TooLarge(Exception):
    """Raised for a response that is larger than its limit."""


def _text_of(error: Exception) -> str:
    """Return the error's class and, unless it is empty, its text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
