"""The handler of OpenFaaS: the one of its template python3-http, `handle(event, context)`."""

import threading
import time
from collections.abc import Mapping
from typing import Final, Protocol

from broker.messages import bundle, codec, signature
from broker.messages.errors import BadSignature, DecodeError
from broker.messages.invocation import InvocationRequest, Report, RequestName
from client_fn.runtime.instance import Instance, of_this_process

HEALTH: Final = "/healthz"

Response = tuple[bytes, int, dict[str, str]]
"""What Flask takes as it is. The template would send bytes in a dict as the text that Python shows them by."""

_JSON: Final = "application/json"

_seen: Final[dict[str, float]] = {}
_looking: Final = threading.Lock()


class Event(Protocol):
    """The template's request."""

    @property
    def body(self) -> bytes: ...  # noqa: D102 (Flask's names)

    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def path(self) -> str: ...  # noqa: D102


def handle(event: Event, context: object) -> Response:  # noqa: ARG001 (the template passes two)
    """Do what the bridge asks for: 200 with a report, or a parcel where the order came in one.

    `/healthz` is answered at once. A call that is not the bridge's gets a 401 before anything of it is parsed, and one
    that is no request a 400; a request that can't be read, but names its task, is reported as failed.
    """
    if event.path == HEALTH:
        return b"", 200, {}
    instance = of_this_process()
    headers = {name.lower(): value for name, value in event.headers.items()}
    try:
        _admit(instance.settings.key, event.body, headers)
        return _answered(instance, event.body, headers)
    except BadSignature as exc:
        return _refusal(401, exc)
    except DecodeError as exc:
        return _refusal(400, exc)


def _admit(key: bytes | None, body: bytes, headers: Mapping[str, str]) -> None:
    """Accept what the bridge signed; whatever comes, where no key was agreed upon."""
    if key is not None:
        with _looking:
            signature.verify(key, body, headers, time.time(), _seen)


def _answered(instance: Instance, body: bytes, headers: Mapping[str, str]) -> Response:
    activation = headers.get(signature.CALL_ID.lower(), "")
    message, given = (body, None) if headers.get("content-type") != bundle.CONTENT_TYPE else bundle.unpack(body)
    try:
        report, written = instance.answer(codec.decode(InvocationRequest, message), given, activation=activation)
    except DecodeError as exc:
        named = codec.decode_partial(RequestName, message)
        if named is None:
            raise
        return _told(instance.refuse(named, exc, activation=activation))
    if given is None or report.state != "done":
        return _told(report)
    return bundle.pack(codec.encode(report), written), 200, {"Content-Type": bundle.CONTENT_TYPE}


def _told(report: Report) -> Response:
    return codec.encode(report), 200, {"Content-Type": _JSON}


def _refusal(status: int, exc: DecodeError) -> Response:
    return codec.encode({"reason": str(exc)}), status, {"Content-Type": _JSON}
