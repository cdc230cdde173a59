"""The handler for OpenWhisk: reports, errors and secrets."""

import json
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from broker.messages import codec
from broker.messages.invocation import Report
from client_fn.data.shard_cache import ShardCache
from client_fn.handlers import openwhisk
from tests.support.handler_calls import HIDDEN, Deployed, check_refused, newer_request

pytestmark = pytest.mark.torch


def test_returns_the_report(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__OW_ACTIVATION_ID", "0123456789abcdef")
    response = openwhisk.main({"order": msgspec.to_builtins(deployed.request(attempt=3))})
    report = codec.decode(Report, json.dumps(response, allow_nan=False).encode())
    assert (report.id, report.state, report.attempt) == ("job.1.c1", "failed", 3)
    assert report.activation == "0123456789abcdef"


@pytest.mark.parametrize(
    "params", [{}, {"order": None}, {"order": {}}, {"order": "x"}, {"order": "\ud800"}, {"order": float("nan")}]
)
def test_answers_an_invalid_request_with_an_error(params: dict[str, Any]) -> None:
    response = openwhisk.main(params)
    assert response.keys() == {"error"}
    assert "not a valid InvocationRequest" in response["error"]
    json.dumps(response, allow_nan=False).encode()


def test_hides_the_caller_s_headers(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even if an unexpected error is logged with a traceback."""

    def fails(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    headers = {"authorization": HIDDEN, "host": "whisk.example"}
    monkeypatch.setattr(ShardCache, "read", fails)
    responses: list[Any] = []
    with capture_logs() as logs:
        for request in (msgspec.to_builtins(deployed.request()), None, {"token": 5}):
            params = {"__ow_headers": headers, "__ow_user": HIDDEN, "order": request}
            responses.append(openwhisk.main(params))
            assert params.keys() == {"order"}
    assert [response.get("state", "error") for response in responses] == ["failed", "error", "error"]
    captured = capfd.readouterr()
    assert HIDDEN not in f"{responses} {logs} {captured.out} {captured.err}"


def test_reports_a_request_of_a_newer_server(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__OW_ACTIVATION_ID", "a-1")
    response = openwhisk.main({"order": json.loads(newer_request(deployed))})
    check_refused(msgspec.convert(response, Report), "a-1")
