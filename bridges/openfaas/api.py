"""HTTP to an OpenFaaS gateway: to `/system` with our credentials, to `/function` never with them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus as Http
from typing import Any, Final, NoReturn

import httpx
import msgspec

from bridges import endpoint
from bridges.errors import InvocationFailed, NotStarted, OutcomeUnknown, PlatformAway, PlatformDenied, PlatformFailed
from bridges.openfaas.answers import GatewayResponse
from bridges.openfaas.settings import Settings
from bridges.secrets import SecretStore

CONNECT_S: Final = 5.0
WRITE_S: Final = 60.0
"""For each piece of a body, not for all of it."""

SYSTEM_S: Final = 30.0
SYSTEM_BYTES: Final = 16 << 20

_INTERNAL: Final = "X-OpenFaaS-Internal"
_DURATION: Final = "X-Duration-Seconds"
_NEVER_CONNECTED: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Api:
    """A gateway that can be called. Use it as `async with connected(...) as api`.

    Attributes:
        settings: of the bridge.
        http: knows the address.
        auth: for `/system` alone: what goes to `/function` reaches the function, headers and all.
    """

    settings: Settings
    http: httpx.AsyncClient
    auth: httpx.BasicAuth | None

    async def system(
        self, method: str, path: str, what: str, *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> GatewayResponse:
        """Call the gateway's own API.

        Args:
            method: of HTTP.
            path: what follows `/system`.
            what: it is for; what errors say could not be done.
            params: of the query.
            body: what is sent as JSON.

        Raises:
            PlatformDenied: the credentials are refused.
            PlatformAway: it is out of reach, broke the connection off, or is too busy.
        """
        content = b"" if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if content else {}
        request = self.http.build_request(
            method, f"/system{path}", params=params or {}, content=content, headers=headers
        )
        try:
            async with asyncio.timeout(SYSTEM_S):
                answer = await self._answer(request, SYSTEM_BYTES, self.auth)
        except _TooLarge as exc:
            raise PlatformFailed(self.settings.name, what, str(exc)) from exc
        except TimeoutError as exc:
            raise PlatformAway(self.settings.name, what, f"no answer within {SYSTEM_S:g} s") from exc
        except httpx.TransportError as exc:
            raise PlatformAway(self.settings.name, what, _reason(exc)) from exc
        return self._accepted(answer, what)

    def _accepted(self, answer: GatewayResponse, what: str) -> GatewayResponse:
        match answer.status:
            case Http.UNAUTHORIZED | Http.FORBIDDEN:
                remedy = "check the bridge's `username`, and the secret that `password` names"
                raise PlatformDenied(self.settings.name, self.settings.gateway, remedy)
            case Http.TOO_MANY_REQUESTS | Http.BAD_GATEWAY | Http.SERVICE_UNAVAILABLE | Http.GATEWAY_TIMEOUT:
                raise PlatformAway(self.settings.name, what, f"the gateway answers {answer.status}")
        return answer

    async def call(
        self,
        function: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        within_s: float,
        at_most: int,
        method: str = "POST",
        path: str = "",
    ) -> GatewayResponse:
        """Call a function and wait for its answer.

        Args:
            function: its name, with `.namespace` if need be.
            body: what is sent.
            headers: go to the function.
            within_s: how long to wait for all of the answer.
            at_most: bytes of the answer.
            method: of HTTP.
            path: what follows the function's name.

        Raises:
            NotStarted: there was no connection, so nothing ran.
            OutcomeUnknown: no answer in time, or the connection broke after the call had begun.
            InvocationFailed: the answer is larger than that.
        """
        url = f"/function/{function}{path}"
        request = self.http.build_request(method, url, content=body, headers=dict(headers))
        try:
            async with asyncio.timeout(within_s):
                return await self._answer(request, at_most, None)
        except _TooLarge as exc:
            raise InvocationFailed(f"{function}: {exc}") from exc
        except _NEVER_CONNECTED as exc:
            raise NotStarted(f"the gateway is out of reach: {_reason(exc)}") from exc
        except TimeoutError as exc:
            raise OutcomeUnknown(f"no answer of {function} within {within_s:g} s") from exc
        except httpx.TransportError as exc:
            raise OutcomeUnknown(f"the connection broke during the call of {function}: {_reason(exc)}") from exc

    async def _answer(self, request: httpx.Request, at_most: int, auth: httpx.BasicAuth | None) -> GatewayResponse:
        begun_s = time.monotonic()
        response = await self.http.send(request, stream=True, auth=auth)
        try:
            body = await _read(response, at_most)
        finally:
            await response.aclose()
        took_s = _number(response.headers.get(_DURATION), time.monotonic() - begun_s)
        return GatewayResponse(response.status_code, response.headers.get(_INTERNAL, ""), body, took_s)


class _TooLarge(Exception):
    """Raised for a response that is larger than it may be."""


@contextlib.asynccontextmanager
async def connected(settings: Settings, vault: SecretStore) -> AsyncIterator[Api]:
    """A gateway's API; nothing is sent before it is used.

    Args:
        settings: where it is, and which certificates to trust.
        vault: holds the password that the settings name.

    Raises:
        BadSettings: the address or the certificates can't be used.
        SecretMissing: the password is not here.
    """
    url = endpoint.parse_url("gateway", settings.gateway, "with `username` and `password` apart")
    auth = httpx.BasicAuth(settings.username, vault.value(settings.password)) if settings.password else None
    # How long an answer may take is up to each call; compressed ones could be of any size.
    timeout, headers = httpx.Timeout(None, connect=CONNECT_S, write=WRITE_S), {"Accept-Encoding": "identity"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    trust = endpoint.ssl_context(settings.ca_file)
    async with httpx.AsyncClient(base_url=url, verify=trust, timeout=timeout, limits=limits, headers=headers) as http:
        yield Api(settings, http, auth)


async def _read(response: httpx.Response, at_most: int) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > at_most:
            _refuse(at_most)
        parts.append(part)
    return b"".join(parts)


def _refuse(at_most: int) -> NoReturn:
    raise _TooLarge(f"an answer of more than {at_most} bytes")


def _number(text: str | None, otherwise: float) -> float:
    try:
        return float(text or "")
    except ValueError:
        return otherwise


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
