"""What a gateway's answer says of a call: every status that OpenFaaS gives, and who gave it.

A platform's own answers carry `X-OpenFaaS-Internal` (gateway 502 and 404 do not); all others come from the function.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus as Http
from typing import Final

from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown

AT_ONCE_S: Final = 1.0
"""A watchdog or a gateway that reaches nobody says so at once; one that says it later had reached somebody."""

NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)?")
"""A function's name, with its namespace if it is not the bridge's own."""

_NO_ENDPOINT: Final = "No endpoints available"
_UNKNOWN: Final = "error finding function"
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class GatewayResponse:
    """A whole response.

    Attributes:
        status: the HTTP status.
        internal: which part of the platform made it; empty: the function, a gateway or a proxy before it.
        body: of bounded size.
        took_s: how long the watchdog had the call, or else how long we waited.
    """

    status: int
    internal: str
    body: bytes
    took_s: float

    @property
    def ok(self) -> bool:
        """The call did what it should."""
        return Http.OK <= self.status < Http.MULTIPLE_CHOICES

    @property
    def text(self) -> str:
        """The body as one short line for people."""
        return " ".join(self.body[: 4 * _SHOWN].decode(errors="replace").split())[:_SHOWN]


def failure(answer: GatewayResponse, function: str) -> InvocationFailed | None:
    """Why a call of a function did not do what it should; None: it did.

    FunctionGone is but a suspicion here: a function without a ready replica gets the same answers as one that is not
    there.
    """
    late = answer.took_s >= AT_ONCE_S
    match answer.status:
        case _ if answer.ok:
            return None
        case Http.GATEWAY_TIMEOUT:
            return OutcomeUnknown(f"{function} outlived its exec_timeout or a proxy's patience (504)")
        case Http.BAD_GATEWAY if late:
            return OutcomeUnknown(f"{function} outlived the gateway's upstream_timeout (502)")
        case Http.BAD_GATEWAY:
            return NotStarted("the gateway does not reach its provider (502)")
        case Http.NOT_FOUND if _UNKNOWN in answer.text:
            return FunctionGone(f"the gateway does not find {function} (404)")
        case Http.SERVICE_UNAVAILABLE if _NO_ENDPOINT in answer.text:
            return FunctionGone(f"{function} has no endpoint (503)")
        case Http.TOO_MANY_REQUESTS | Http.SERVICE_UNAVAILABLE:
            return NotStarted(f"{function} has no room for the call ({answer.status})")
        case _ if answer.internal:
            return _platforms_own(answer, function, late=late)
        case _:
            return _functions_own(answer, function)


def _platforms_own(answer: GatewayResponse, function: str, *, late: bool) -> InvocationFailed:
    if late:
        return InvocationFailed(f"the process of {function} ended while it worked ({answer.status})")
    if answer.internal == "of-watchdog":
        return NotStarted(f"cold start: the process of {function} does not listen yet ({answer.status})")
    return NotStarted(f"{answer.internal} does not reach {function} ({answer.status})")


def _functions_own(answer: GatewayResponse, function: str) -> InvocationFailed:
    if answer.status >= Http.INTERNAL_SERVER_ERROR:
        return InvocationFailed(f"{function} raised ({answer.status})")
    if answer.status == Http.UNAUTHORIZED:
        remedy = "do the bridge's `key` and the function's name the same secret?"
        reason = f"{function} refuses the call's signature (401): {answer.text}; {remedy}"
    else:
        reason = f"{function} refuses the call ({answer.status}): {answer.text}"
    return InvocationFailed(reason, retryable=False)
