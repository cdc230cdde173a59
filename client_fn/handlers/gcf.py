"""The handler of Google Cloud Functions (2nd generation) behind Pub/Sub: `train(event)`."""

import base64
from typing import Any, Protocol

from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, RequestName
from broker.support import loggers
from client_fn.runtime.instance import of_this_process

log = loggers.get_logger(__name__)


class CloudEvent(Protocol):
    """The event that functions-framework passes to the handler."""

    data: Any

    def __getitem__(self, name: str) -> Any:
        """Return an attribute of the event."""


def train(event: CloudEvent) -> None:
    """Execute the request in a Pub/Sub message. The report goes only to the broker.

    Always returns normally, which acknowledges the message: the bridge decides about retries, and an unreadable message
    would stay unreadable. An unreadable request that names its task is reported as failed.
    """
    activation = event["id"]
    try:
        content = base64.b64decode(event.data["message"]["data"], validate=True)
    except (TypeError, KeyError, ValueError) as exc:
        log.error("no request", message=activation, reason=f"not a Pub/Sub message with data: {exc!r}")  # noqa: TRY400
        return
    try:
        report = of_this_process().run(codec.decode(InvocationRequest, content), activation=activation)
    except DecodeError as exc:
        log.error("no request", message=activation, reason=str(exc))  # noqa: TRY400 (a traceback would tell no more)
        if name := codec.decode_partial(RequestName, content):
            of_this_process().refuse(name, exc, activation=activation)
        return
    log.info("request answered", task=report.id, state=report.state, reason=report.reason)
