"""Every response of an OpenFaaS gateway stands for one outcome of a call."""

import pytest

from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown
from bridges.openfaas.responses import AT_ONCE_S, GatewayResponse, failure

WATCHDOG, PROXY, MIDDLEWARE = "of-watchdog", "proxy", "faas-middleware"
NO_ENDPOINT = b"No endpoints available for: c-1."


def answer(status: int, internal: str = "", body: bytes = b"", took_s: float = 0.0) -> GatewayResponse:
    return GatewayResponse(status, internal, body, took_s)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_is_no_failure(status: int) -> None:
    assert failure(answer(status, took_s=99.0), "c-1") is None


@pytest.mark.parametrize(
    ("response", "kind", "retryable"),
    [
        (answer(404, "", b"error finding function c-1.openfaas-fn: not found"), FunctionGone, True),
        (answer(503, PROXY, NO_ENDPOINT), FunctionGone, True),
        (answer(503), NotStarted, True),
        (answer(429, MIDDLEWARE), NotStarted, True),
        (answer(429), NotStarted, True),
        (answer(502), NotStarted, True),
        (answer(502, took_s=AT_ONCE_S), OutcomeUnknown, True),
        (answer(504, WATCHDOG, took_s=300.0), OutcomeUnknown, True),
        (answer(504), OutcomeUnknown, True),
        (answer(500, WATCHDOG), NotStarted, True),
        (answer(500, PROXY), NotStarted, True),
        (answer(500, WATCHDOG, took_s=AT_ONCE_S), InvocationFailed, True),
        (answer(400, PROXY), NotStarted, True),
        (answer(500, "", b"<html>Internal Server Error</html>", 20.0), InvocationFailed, True),
        (answer(401), InvocationFailed, False),
        (answer(404, "", b"404 page not found"), InvocationFailed, False),
        (answer(413), InvocationFailed, False),
        (answer(302), InvocationFailed, False),
    ],
)
def test_a_failure_is_of_its_kind(response: GatewayResponse, kind: type[InvocationFailed], *, retryable: bool) -> None:
    error = failure(response, "c-1")
    assert type(error) is kind
    assert error.retryable is retryable
    assert str(response.status) in error.reason


NOT_REACHED = b"Can't reach service for: c-1."


@pytest.mark.parametrize(
    ("response", "reports", "kind"),
    [
        (answer(500, PROXY, NOT_REACHED, 3.0), True, NotStarted),
        (answer(500, PROXY, NOT_REACHED, 3.0), False, InvocationFailed),
        (answer(500, WATCHDOG, took_s=3.0), True, InvocationFailed),
    ],
)
def test_a_dial_that_fails_late_started_nothing_if_the_function_would_have_reported_its_begin(
    response: GatewayResponse, kind: type[InvocationFailed], *, reports: bool
) -> None:
    assert type(failure(response, "c-1", reports=reports)) is kind


def test_the_refusal_of_a_function_that_trains_says_that_its_process_ended() -> None:
    for response in (answer(500, WATCHDOG), answer(500, PROXY, NOT_REACHED, 3.0)):
        error = failure(response, "c-1", reports=True)
        assert isinstance(error, NotStarted)
        assert error.if_begun == "the process of c-1 ended while it worked (500)"


def test_a_cold_start_is_distinguished_from_a_busy_function() -> None:
    reasons = [
        failure(response, "c-1") for response in (answer(500, WATCHDOG), answer(429, MIDDLEWARE), answer(500, PROXY))
    ]
    assert [str(reason) for reason in reasons] == [
        "cold start: the process of c-1 does not listen yet (500)",
        "c-1 has no room for the call (429)",
        "proxy does not reach c-1 (500)",
    ]


def test_an_answers_text_is_one_short_line() -> None:
    assert answer(400, body=b"  no\r\n such \xff image ").text == "no such \N{REPLACEMENT CHARACTER} image"
    assert len(answer(400, body=b"x" * 100_000).text) == 300
