"""The Cloud Functions API, version 2: calls, their errors, and operations that end later.

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
import structlog

from bridges.errors import PlatformAway, PlatformDenied, PlatformFailed
from bridges.gcf.settings import Settings

log = structlog.get_logger(__name__)

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"

_AWAY: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,  # another operation on the same function is under way
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
        settings: of the project.
        http: a client whose base is the API's address.
        credentials: of google-auth; None: none, for an emulator.
    """

    def __init__(self, settings: Settings, http: httpx.AsyncClient, credentials: Any) -> None:
        self._settings = settings
        self._http = http
        self._credentials = credentials
        self._refreshing = asyncio.Lock()

    async def call(self, method: str, path: str, what: str, **request: Any) -> dict[str, Any] | None:
        """The answer to one call; None if there is nothing of that name.

        Args:
            method: of HTTP.
            path: a resource's name, and what follows it.
            what: is being done, for errors.
            request: further arguments of httpx, such as `json`.

        Raises:
            PlatformAway: no answer, or one that says to come later.
            PlatformDenied: the credentials are refused.
            PlatformFailed: the call is refused.
        """
        headers = await self._authorization(what)
        with _reached(self._settings, what):
            response = await self._http.request(method, f"/v2/{path}", headers=headers, **request)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        self._check(response, what)
        return self._content(response, what)

    async def upload(self, url: str, archive: bytes, what: str) -> None:
        """Put an archive where a signed URL says; the URL is a secret, and our token is not for it.

        Raises:
            PlatformAway: no answer, or one that says to come later.
            PlatformDenied: the signature is refused.
            PlatformFailed: the archive is refused.
        """
        with _reached(self._settings, what):
            response = await self._http.put(url, content=archive, headers={"Content-Type": "application/zip"})
        self._check(response, what)

    async def finish(self, operation: dict[str, Any], what: str) -> None:
        """Wait until an operation has ended well.

        Raises:
            PlatformAway: it has not ended in time; it may go on.
            PlatformFailed: it failed.
        """
        wait_s = self._settings.poll_s
        try:
            async with asyncio.timeout(self._settings.deploy_s):
                while not operation.get("done"):
                    await asyncio.sleep(wait_s)
                    wait_s = min(_POLL_FACTOR * wait_s, _POLL_MOST_S)
                    operation = await self._progress(operation, what)
        except TimeoutError:
            raise PlatformAway(self._settings.name, what, f"not done in {self._settings.deploy_s:g} s") from None
        if "error" in operation:
            raise PlatformFailed(self._settings.name, what, operation["error"].get("message", "it does not say why"))

    async def _progress(self, operation: dict[str, Any], what: str) -> dict[str, Any]:
        """The operation as it is now; as it was, if the platform can't be asked at the moment."""
        try:
            found = await self.call("GET", operation["name"], what)
        except PlatformAway as exc:
            log.warning("an operation's state is not known for now", operation=operation["name"], error=str(exc))
            return operation
        if found is None:
            raise PlatformFailed(self._settings.name, what, f"{operation['name']} is forgotten")
        return found

    async def _authorization(self, what: str) -> dict[str, str]:
        if self._credentials is None:
            return {}
        async with self._refreshing:
            if not self._credentials.valid:
                await self._refresh(what)
        return {"Authorization": f"Bearer {self._credentials.token}"}

    async def _refresh(self, what: str) -> None:
        # This part of google-auth blocks, and tries for two minutes.
        request = google.auth.transport.requests.Request()
        try:
            async with asyncio.timeout(self._settings.call_s):
                await asyncio.to_thread(self._credentials.refresh, request)
        except (google.auth.exceptions.TransportError, TimeoutError) as exc:
            raise PlatformAway(self._settings.name, what, f"no token: {exc or 'no answer in time'}") from exc
        except google.auth.exceptions.GoogleAuthError as exc:
            raise PlatformDenied(self._settings.name, "Google's token service", _LOG_IN) from exc
        finally:
            request.session.close()

    def _check(self, response: httpx.Response, what: str) -> None:
        if response.is_success:
            return
        reason = f"{response.status_code} {_message(response)}"
        if response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise PlatformDenied(self._settings.name, response.url.host, f"{reason}; {_RIGHTS}")
        failed = PlatformAway if response.status_code in _AWAY else PlatformFailed
        raise failed(self._settings.name, what, reason)

    def _content(self, response: httpx.Response, what: str) -> dict[str, Any]:
        try:
            return dict(response.json())
        except (ValueError, TypeError) as exc:
            raise PlatformFailed(self._settings.name, what, "its answer is no JSON object") from exc


@contextlib.asynccontextmanager
async def connected(settings: Settings, credentials: Any) -> AsyncIterator[Api]:
    """The API; nothing is sent before it is used.

    Args:
        settings: where it is, and how long a call may take.
        credentials: of google-auth; None: none, for an emulator.
    """
    async with httpx.AsyncClient(base_url=settings.api, timeout=settings.call_s) as http:
        yield Api(settings, http, credentials)


async def credentials_of(settings: Settings) -> Any:
    """The application default credentials; see `google.auth.default`.

    Raises:
        PlatformDenied: there are none.
    """
    try:
        found, _ = await asyncio.to_thread(google.auth.default, scopes=[SCOPE])
    except google.auth.exceptions.GoogleAuthError as exc:
        raise PlatformDenied(settings.name, settings.api, f"there are none; {_LOG_IN}") from exc
    return found


@contextlib.contextmanager
def _reached(settings: Settings, what: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as exc:
        # Its text may be empty, and shows no URL.
        raise PlatformAway(settings.name, what, f"no answer: {type(exc).__name__} {exc}".rstrip()) from exc


def _message(response: httpx.Response) -> str:
    """What Google's error says; what is no such error (a proxy's page) is told by its status alone."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase
