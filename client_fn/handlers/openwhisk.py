"""The handler of OpenWhisk: `main(params)`."""

import os
from typing import Any

import msgspec

from broker.errors import UNREADABLE
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, RequestName
from client_fn.runtime.instance import of_this_process


def main(params: dict[str, Any]) -> dict[str, Any]:
    """Do what `params["order"]` asks for; returns the report.

    A request that can't be read, but names its task, is reported as failed. What names none is answered with `error`,
    which OpenWhisk takes for the application's failure.
    """
    # A fired trigger hands the caller's HTTP headers on, the namespace's key among them: nobody here shall see it.
    for name in [name for name in params if name.startswith("__ow_")]:
        del params[name]
    content, activation = b"", os.environ.get("__OW_ACTIVATION_ID", "")
    try:
        content = _encoded(params.get("order"))
        report = of_this_process().run(codec.decode(InvocationRequest, content), activation=activation)
    except DecodeError as exc:
        named = codec.decode_partial(RequestName, content)
        if named is None:
            return {"error": str(exc)}
        report = of_this_process().refuse(named, exc, activation=activation)
    # A report holds no numbers but whole ones: NaN would be a failure of the action.
    answer: dict[str, Any] = msgspec.to_builtins(report)
    return answer


def _encoded(value: object) -> bytes:
    try:
        return codec.encode(value)
    except UNREADABLE as exc:
        raise DecodeError(f"not a valid InvocationRequest: {exc}") from exc
