"""The handler for Cloud Functions: every message is acknowledged."""

import base64
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, Report, RequestName
from client_fn.handlers import gcf
from tests.support.handler_calls import CloudEvent, Deployed, check_refused, newer_request

pytestmark = pytest.mark.torch


def test_executes_the_request_in_a_message_and_acknowledges_it(deployed: Deployed) -> None:
    data = base64.b64encode(msgspec.json.encode(deployed.request(attempt=2))).decode()
    with capture_logs() as logs:
        gcf.train(CloudEvent({"subscription": "s", "message": {"data": data, "messageId": "message-7"}}))
    entry = next(line for line in logs if line["event"] == "request answered")
    assert (entry["task"], entry["state"]) == ("job.1.c1", "failed")


def test_passes_on_the_message_s_id(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[InvocationRequest, str]] = []

    def run(request: InvocationRequest, *, activation: str) -> Report:
        calls.append((request, activation))
        return Report(request.task.id, "done")

    monkeypatch.setattr(deployed.instance, "run", run)
    data = base64.b64encode(msgspec.json.encode(deployed.request())).decode()
    gcf.train(CloudEvent({"message": {"data": data}}, "message-9"))
    assert calls == [(deployed.request(), "message-9")]


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        b"bytes",
        {},
        {"message": None},
        {"message": {"attributes": {}}},
        {"message": {"data": 5}},
        {"message": {"data": "not base64!"}},
        {"message": {"data": base64.b64encode(b"{}").decode()}},
    ],
)
def test_acknowledges_and_logs_a_message_that_is_not_a_request(data: Any) -> None:
    with capture_logs() as logs:
        gcf.train(CloudEvent(data))
    assert [(entry["event"], entry["message"]) for entry in logs] == [("no request", "message-7")]


def test_reports_a_request_of_a_newer_server(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse, reports = deployed.instance.refuse, list[Report]()

    def recorded_refuse(request: RequestName, exc: DecodeError, *, activation: str) -> Report:
        reports.append(refuse(request, exc, activation=activation))
        return reports[-1]

    monkeypatch.setattr(deployed.instance, "refuse", recorded_refuse)
    gcf.train(CloudEvent({"message": {"data": base64.b64encode(newer_request(deployed)).decode()}}))
    check_refused(reports[0], "message-7")
