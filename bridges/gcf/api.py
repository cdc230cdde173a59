"""Client of the Cloud Functions API, version 2, with its long-running operations.

https://cloud.google.com/functions/docs/reference/rest
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any, Final

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import httpx

from bridges import endpoint
from bridges.errors import PlatformAway, PlatformDenied, PlatformFailed
from bridges.gcf.settings import Settings
from broker.support import loggers

log = loggers.get_logger(__name__)

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"

_AWAY: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,  # another operation on the same function is in progress
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)

_RIGHTS: Final = "its account needs roles/cloudfunctions.developer and roles/iam.serviceAccountUser"
_LOG_IN: Final = "run `gcloud auth application-default login`, or name a key file in GOOGLE_APPLICATION_CREDENTIALS"

_POLL_FACTOR: Final = 1.5
_POLL_MOST_S: Final = 10.0


class Api:
    """Calls the API. Use it as `async with connected(...) as api`.

    Args:
        settings: settings of the bridge.
        http: client with the API's address as base URL.
        credentials: credentials of google-auth; None for an emulator, which needs none.
    """

    def __init__(self, settings: Settings, http: httpx.AsyncClient, credentials: Any) -> None:
        self._settings = settings
        self._http = http
        self._credentials = credentials
        self._refreshing = asyncio.Lock()

    async def call(self, method: str, path: str, purpose: str, **request: Any) -> dict[str, Any] | None:
        """Send a request and return its response; None if the resource does not exist.

        Args:
            method: HTTP method.
            path: name of a resource, optionally with more segments.
            purpose: completes "could not ..." in errors.
            request: more arguments of `httpx.AsyncClient.request`, such as `json`.

        Raises:
            PlatformAway: the API does not answer, or may accept the same request later.
            PlatformDenied: the API refuses the credentials.
            PlatformFailed: the API refuses the request.
        """
        headers = await self._authorization(purpose)
        with _transport_errors(self._settings, purpose):
            response = await self._http.request(method, f"/v2/{path}", headers=headers, **request)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        self._check(response, purpose)
        try:
            return dict(response.json())
        except (ValueError, TypeError) as exc:
            raise PlatformFailed(self._settings.name, purpose, "its answer is no JSON object") from exc

    async def upload(self, url: str, archive: bytes, purpose: str) -> None:
        """Upload an archive to a signed URL.

        Args:
            url: signed URL. It is a secret, and needs no token.
            archive: zip archive with a function's source.
            purpose: completes "could not ..." in errors.

        Raises:
            PlatformAway: the storage does not answer, or may accept the same request later.
            PlatformDenied: the storage refuses the signature.
            PlatformFailed: the storage refuses the archive.
        """
        with _transport_errors(self._settings, purpose):
            response = await self._http.put(url, content=archive, headers={"Content-Type": "application/zip"})
        self._check(response, purpose)

    async def finish(self, operation: dict[str, Any], purpose: str) -> None:
        """Wait until a long-running operation succeeds.

        Args:
            operation: the operation as `call` returned it.
            purpose: completes "could not ..." in errors.

        Raises:
            PlatformAway: the operation did not end in time; it may still go on.
            PlatformFailed: the operation failed.
        """
        wait_s = self._settings.poll_s
        try:
            async with asyncio.timeout(self._settings.deploy_s):
                while not operation.get("done"):
                    await asyncio.sleep(wait_s)
                    wait_s = min(_POLL_FACTOR * wait_s, _POLL_MOST_S)
                    operation = await self._poll(operation, purpose)
        except TimeoutError:
            raise PlatformAway(self._settings.name, purpose, f"not done in {self._settings.deploy_s:g} s") from None
        if "error" in operation:
            reason = operation["error"].get("message", "it does not say why")
            raise PlatformFailed(self._settings.name, purpose, reason)

    async def _poll(self, operation: dict[str, Any], purpose: str) -> dict[str, Any]:
        """Return the current state of an operation, or the last known one if the API does not answer now."""
        try:
            current = await self.call("GET", operation["name"], purpose)
        except PlatformAway as exc:
            log.warning("an operation's state is not known for now", operation=operation["name"], error=str(exc))
            return operation
        if current is None:
            raise PlatformFailed(self._settings.name, purpose, f"{operation['name']} is forgotten")
        return current

    async def _authorization(self, purpose: str) -> dict[str, str]:
        """Return the header with the access token. Refresh the token if it has expired."""
        if self._credentials is None:
            return {}
        async with self._refreshing:
            if not self._credentials.valid:
                request = google.auth.transport.requests.Request()
                try:
                    # `refresh` blocks, and retries for two minutes.
                    async with asyncio.timeout(self._settings.call_s):
                        await asyncio.to_thread(self._credentials.refresh, request)
                except (google.auth.exceptions.TransportError, TimeoutError) as exc:
                    reason = f"no token: {exc or 'no answer in time'}"
                    raise PlatformAway(self._settings.name, purpose, reason) from exc
                except google.auth.exceptions.GoogleAuthError as exc:
                    raise PlatformDenied(self._settings.name, "Google's token service", _LOG_IN) from exc
                finally:
                    request.session.close()
        return {"Authorization": f"Bearer {self._credentials.token}"}

    def _check(self, response: httpx.Response, purpose: str) -> None:
        if response.is_success:
            return
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):  # the response is not from Google, but from a proxy
            message = response.reason_phrase
        reason = f"{response.status_code} {message}"
        if response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise PlatformDenied(self._settings.name, response.url.host, f"{reason}; {_RIGHTS}")
        error = PlatformAway if response.status_code in _AWAY else PlatformFailed
        raise error(self._settings.name, purpose, reason)


@contextlib.asynccontextmanager
async def connected(settings: Settings, credentials: Any) -> AsyncIterator[Api]:
    """Yield the API. The first call opens the connection.

    Args:
        settings: address, and time limit of a call.
        credentials: credentials of google-auth; None for an emulator, which needs none.
    """
    may_use_proxy = endpoint.may_use_proxy(httpx.URL(settings.api))
    async with httpx.AsyncClient(base_url=settings.api, timeout=settings.call_s, trust_env=may_use_proxy) as http:
        yield Api(settings, http, credentials)


async def default_credentials(settings: Settings) -> Any:
    """Return the application default credentials (`google.auth.default`).

    Raises:
        PlatformDenied: there are no such credentials.
    """
    try:
        credentials, _ = await asyncio.to_thread(google.auth.default, scopes=[SCOPE])
    except google.auth.exceptions.GoogleAuthError as exc:
        raise PlatformDenied(settings.name, settings.api, f"there are none; {_LOG_IN}") from exc
    return credentials


@contextlib.contextmanager
def _transport_errors(settings: Settings, purpose: str) -> Iterator[None]:
    """Raise PlatformAway for transport errors of httpx."""
    try:
        yield
    except httpx.TransportError as exc:
        # The text of the error may be empty. It never contains a URL, so it can't show a signature.
        reason = f"no answer: {type(exc).__name__} {exc}".rstrip()
        raise PlatformAway(settings.name, purpose, reason) from exc
