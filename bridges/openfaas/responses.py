"""Translates the response of an OpenFaaS gateway into the outcome of a call.

The header `X-OpenFaaS-Internal` marks responses that a part of the platform made itself. A gateway's own 502 and 404
lack it. All other responses come from the function.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus as Http
from typing import Final

from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown

AT_ONCE_S: Final = 1.0
"""An error of the platform before this time (seconds) means that no process got the call."""

NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)?")
"""A function's name, optionally followed by `.namespace`."""

_NOT_REACHED: Final = "Can't reach service"
"""The provider's text for any error of its own call. Its dial may take seconds to fail (an address whose container is
gone), and it sends the same text for a connection that ends during the call."""

_NO_ENDPOINT: Final = "No endpoints available"
_NOT_FOUND: Final = "error finding function"
_TEXT_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class GatewayResponse:
    """A complete response.

    Attributes:
        status: HTTP status.
        internal: part of the platform that made the response; empty if the function, the gateway or a proxy in front of
            it did.
        body: content, of limited size.
        took_s: time that the watchdog spent on the call if it says so, else the time that we waited; seconds.
    """

    status: int
    internal: str
    body: bytes
    took_s: float

    @property
    def ok(self) -> bool:
        """Whether the status is a 2xx."""
        return Http.OK <= self.status < Http.MULTIPLE_CHOICES

    @property
    def text(self) -> str:
        """The start of the body as one line, for messages to people."""
        return " ".join(self.body[: 4 * _TEXT_CHARS].decode(errors="replace").split())[:_TEXT_CHARS]


def failure(response: GatewayResponse, function: str, *, reports: bool = False) -> InvocationFailed | None:
    """Return the error that a response to a call stands for; None if the call succeeded.

    FunctionGone is only a suspicion here: a function without a ready replica gives the same responses as a function
    that does not exist.

    Args:
        response: response of the gateway.
        function: name of the called function, for messages.
        reports: whether the function itself reports when it has begun, so that a late NotStarted can be told from a
            function that has ended.
    """
    late = response.took_s >= AT_ONCE_S
    match response.status:
        case _ if response.ok:
            return None
        case Http.GATEWAY_TIMEOUT:
            return OutcomeUnknown(f"{function} outlived its exec_timeout or a proxy's timeout (504)")
        case Http.BAD_GATEWAY if late:
            return OutcomeUnknown(f"{function} outlived the gateway's upstream_timeout (502)")
        case Http.BAD_GATEWAY:
            return NotStarted("the gateway does not reach its provider (502)")
        case Http.NOT_FOUND if _NOT_FOUND in response.text:
            return FunctionGone(f"the gateway does not find {function} (404)")
        case Http.SERVICE_UNAVAILABLE if _NO_ENDPOINT in response.text:
            return FunctionGone(f"{function} has no endpoint (503)")
        case Http.TOO_MANY_REQUESTS | Http.SERVICE_UNAVAILABLE:
            return NotStarted(f"{function} has no room for the call ({response.status})")
        case _ if response.internal:
            is_dial = reports and _NOT_REACHED in response.text
            return _platform_failure(response, function, may_have_begun=late and not is_dial)
        case _:
            return _function_failure(response, function)


def _platform_failure(response: GatewayResponse, function: str, *, may_have_begun: bool) -> InvocationFailed:
    """Return the error of a response that a part of the platform made, because it did not reach the process."""
    ended = f"the process of {function} ended while it worked ({response.status})"
    if may_have_begun:
        return InvocationFailed(ended)
    is_cold_start = response.internal == "of-watchdog"
    text = f"cold start: the process of {function} does not listen yet"
    reason = text if is_cold_start else f"{response.internal} does not reach {function}"
    return NotStarted(f"{reason} ({response.status})", if_begun=ended)


def _function_failure(response: GatewayResponse, function: str) -> InvocationFailed:
    """Return the error of a response that the function itself made."""
    if response.status >= Http.INTERNAL_SERVER_ERROR:
        return InvocationFailed(f"{function} raised ({response.status})")
    if response.status == Http.UNAUTHORIZED:
        remedy = "the bridge's `key` and the function's `key` must name the same secret"
        reason = f"{function} refuses the call's signature (401): {response.text}; {remedy}"
    else:
        reason = f"{function} refuses the call ({response.status}): {response.text}"
    return InvocationFailed(reason, retryable=False)
