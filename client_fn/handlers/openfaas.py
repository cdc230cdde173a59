"""The handler of OpenFaaS: `handle(event, context)`, with the arguments that its template python3-http passes."""

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
"""Body, status, headers; Flask accepts such a tuple. The template would send bytes in a dict as their repr."""

_JSON: Final = "application/json"

_seen_calls: Final[dict[str, float]] = {}
_seen_lock: Final = threading.Lock()


class Event(Protocol):
    """The request that the template passes to the handler."""

    @property
    def body(self) -> bytes: ...  # noqa: D102 (Flask's names)

    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def path(self) -> str: ...  # noqa: D102


def handle(event: Event, context: object) -> Response:  # noqa: ARG001 (the template passes two)
    """Execute the bridge's request.

    Args:
        event: the HTTP request. The path `/healthz` gets an empty 200 response at once.
        context: unused; the template passes it.

    Returns:
        200 with a report, or with a bundle of report and outputs if the request came in a bundle. 401 if the signature
        is invalid; nothing is parsed before this check. 400 if the body is not a request. A request that can't be
        decoded but names its task gets 200 with a `failed` report.
    """
    if event.path == HEALTH:
        return b"", 200, {}
    instance = of_this_process()
    headers = {name.lower(): value for name, value in event.headers.items()}
    try:
        # Without a key, calls are not signed.
        if instance.settings.key is not None:
            with _seen_lock:
                signature.verify(instance.settings.key, event.body, headers, time.time(), _seen_calls)
        return _execute(instance, event.body, headers)
    except BadSignature as exc:
        return codec.encode({"reason": str(exc)}), 401, {"Content-Type": _JSON}
    except DecodeError as exc:
        return codec.encode({"reason": str(exc)}), 400, {"Content-Type": _JSON}


def _execute(instance: Instance, body: bytes, headers: Mapping[str, str]) -> Response:
    activation = headers.get(signature.CALL_ID.lower(), "")
    message, inputs = (body, None) if headers.get("content-type") != bundle.CONTENT_TYPE else bundle.unpack(body)
    try:
        report, outputs = instance.execute(codec.decode(InvocationRequest, message), inputs, activation=activation)
    except DecodeError as exc:
        name = codec.decode_partial(RequestName, message)
        if name is None:
            raise
        return _report_response(instance.refuse(name, exc, activation=activation))
    if inputs is None or report.state != "done":
        return _report_response(report)
    return bundle.pack(codec.encode(report), outputs), 200, {"Content-Type": bundle.CONTENT_TYPE}


def _report_response(report: Report) -> Response:
    return codec.encode(report), 200, {"Content-Type": _JSON}
