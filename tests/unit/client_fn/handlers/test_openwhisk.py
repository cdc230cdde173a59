"""The handler for OpenWhisk: reports, mistakes, and what nobody may see."""

import json
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from broker.messages import codec
from broker.messages.invocation import Report
from client_fn.data import shards
from client_fn.handlers import openwhisk
from tests.support.handler_calls import HIDDEN, Deployed, check_refused, newer_request

pytestmark = pytest.mark.torch


def test_returns_the_report(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__OW_ACTIVATION_ID", "0123456789abcdef")
    answer = openwhisk.main({"order": msgspec.to_builtins(deployed.request(attempt=3))})
    report = codec.decode(Report, json.dumps(answer, allow_nan=False).encode())
    assert (report.id, report.state, report.attempt) == ("job.1.c1", "failed", 3)
    assert report.activation == "0123456789abcdef"


@pytest.mark.parametrize(
    "params", [{}, {"order": None}, {"order": {}}, {"order": "x"}, {"order": "\ud800"}, {"order": float("nan")}]
)
def test_answers_what_is_no_order_with_an_error(params: dict[str, Any]) -> None:
    answer = openwhisk.main(params)
    assert answer.keys() == {"error"}
    assert "not a valid InvocationRequest" in answer["error"]
    json.dumps(answer, allow_nan=False).encode()


def test_lets_nobody_see_the_caller_s_headers(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even where something fails that is none of our errors, so that a traceback is logged."""

    def fails(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    headers = {"authorization": HIDDEN, "host": "whisk.example"}
    monkeypatch.setattr(shards, "read", fails)
    seen: list[Any] = []
    with capture_logs() as logs:
        for request in (msgspec.to_builtins(deployed.request()), None, {"token": 5}):
            params = {"__ow_headers": headers, "__ow_user": HIDDEN, "order": request}
            seen.append(openwhisk.main(params))
            assert params.keys() == {"order"}
    assert [answer.get("state", "error") for answer in seen] == ["failed", "error", "error"]
    written = capfd.readouterr()
    assert HIDDEN not in f"{seen} {logs} {written.out} {written.err}"


def test_reports_an_order_of_a_newer_server(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__OW_ACTIVATION_ID", "a-1")
    answer = openwhisk.main({"order": json.loads(newer_request(deployed))})
    check_refused(msgspec.convert(answer, Report), "a-1")
