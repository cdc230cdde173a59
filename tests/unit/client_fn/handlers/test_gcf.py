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


def test_does_what_a_message_says_and_acknowledges_it(deployed: Deployed) -> None:
    data = base64.b64encode(msgspec.json.encode(deployed.request(attempt=2))).decode()
    with capture_logs() as logs:
        gcf.train(CloudEvent({"subscription": "s", "message": {"data": data, "messageId": "message-7"}}))
    answered = next(entry for entry in logs if entry["event"] == "request answered")
    assert (answered["task"], answered["state"]) == ("job.1.c1", "failed")


def test_hands_the_message_s_id_on(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[InvocationRequest, str]] = []

    def run(request: InvocationRequest, *, activation: str) -> Report:
        asked.append((request, activation))
        return Report(request.task.id, "done")

    monkeypatch.setattr(deployed.instance, "run", run)
    data = base64.b64encode(msgspec.json.encode(deployed.request())).decode()
    gcf.train(CloudEvent({"message": {"data": data}}, "message-9"))
    assert asked == [(deployed.request(), "message-9")]


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
def test_acknowledges_what_is_no_order_and_says_so(data: Any) -> None:
    with capture_logs() as logs:
        gcf.train(CloudEvent(data))
    assert [(entry["event"], entry["message"]) for entry in logs] == [("no request", "message-7")]


def test_reports_an_order_of_a_newer_server(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse, told = deployed.instance.refuse, list[Report]()

    def refused(request: RequestName, exc: DecodeError, *, activation: str) -> Report:
        told.append(refuse(request, exc, activation=activation))
        return told[-1]

    monkeypatch.setattr(deployed.instance, "refuse", refused)
    gcf.train(CloudEvent({"message": {"data": base64.b64encode(newer_request(deployed)).decode()}}))
    check_refused(told[0], "message-7")
