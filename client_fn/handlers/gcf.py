"""The handler of Google Cloud Functions (2nd generation) behind Pub/Sub: `train(event)`."""

import base64
from typing import Any, Protocol

import structlog

from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, RequestName
from client_fn.runtime.instance import of_this_process

log = structlog.get_logger(__name__)


class CloudEvent(Protocol):
    """What functions-framework hands over."""

    data: Any

    def __getitem__(self, name: str) -> Any:
        """An attribute of the event."""


def train(event: CloudEvent) -> None:
    """Do what the order in a Pub/Sub message asks for; what becomes of it is reported to the broker alone.

    Returns normally whatever happens, which acknowledges the message: the bridge decides about another attempt, and a
    message that is no request would be none the next time either. A request that can't be read, but names its task, is
    reported as failed.
    """
    content, activation = b"", event["id"]
    try:
        content = _content(event.data)
        report = of_this_process().run(codec.decode(InvocationRequest, content), activation=activation)
    except DecodeError as exc:
        log.error("no request", message=activation, reason=str(exc))  # noqa: TRY400 (a traceback would tell no more)
        if named := codec.decode_partial(RequestName, content):
            of_this_process().refuse(named, exc, activation=activation)
        return
    log.info("request answered", task=report.id, state=report.state, reason=report.reason)


def _content(data: Any) -> bytes:
    try:
        return base64.b64decode(data["message"]["data"], validate=True)
    except (TypeError, KeyError, ValueError) as exc:
        raise DecodeError(f"not a Pub/Sub message with data: {exc!r}") from exc
