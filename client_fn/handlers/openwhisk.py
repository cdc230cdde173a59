"""The handler of OpenWhisk: `main(params)`."""

import os
from typing import Any

import msgspec

from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import OPENWHISK_ARGUMENT, InvocationRequest, RequestName
from broker.support.decoding import UNREADABLE
from client_fn.runtime.instance import of_this_process


def main(params: dict[str, Any]) -> dict[str, Any]:
    """Execute the request in `params[OPENWHISK_ARGUMENT]` and return the report.

    An unreadable request that names its task is reported as failed. One that names no task gets an `error` response,
    which OpenWhisk counts as the application's failure.
    """
    # A fired trigger passes on the caller's HTTP headers, which hold the namespace's key. Nothing here may see them.
    for name in [name for name in params if name.startswith("__ow_")]:
        del params[name]
    activation = os.environ.get("__OW_ACTIVATION_ID", "")
    try:
        content = codec.encode(params.get(OPENWHISK_ARGUMENT))
    except UNREADABLE as exc:
        return {"error": f"not a valid InvocationRequest: {exc}"}
    try:
        report = of_this_process().run(codec.decode(InvocationRequest, content), activation=activation)
    except DecodeError as exc:
        request_name = codec.decode_partial(RequestName, content)
        if request_name is None:
            return {"error": str(exc)}
        report = of_this_process().refuse(request_name, exc, activation=activation)
    # A report's numbers are all integers. A NaN would not be JSON, and the action would fail.
    response: dict[str, Any] = msgspec.to_builtins(report)
    return response
