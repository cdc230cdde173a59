"""The handler for OpenFaaS: signatures, requests, bundles and responses."""

import json
import time
from typing import Any

import msgspec
import pytest

from broker import topics
from broker.messages import bundle, codec, signature
from broker.messages import tensors as payload
from broker.messages.invocation import Report
from broker.messages.update import UpdateHeader
from client_fn.handlers import openfaas
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from tests.support.handler_calls import KEY, Deployed, Event, check_refused, newer_request

pytestmark = pytest.mark.torch


def signed(body: bytes, call_id: str = "call-1", **headers: str) -> Event:
    return Event(body, {**signature.sign(KEY, body, call_id, time.time()), **headers})


def reason_of(response: openfaas.Response) -> str:
    body, _, headers = response
    assert headers == {"Content-Type": "application/json"}
    return str(json.loads(body)["reason"])


def test_answers_the_health_check_without_a_signature() -> None:
    assert openfaas.handle(Event(path="/healthz"), None) == (b"", 200, {})


def test_refuses_an_unsigned_call_before_it_parses_the_body(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_: object) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(codec, "decode", parse)
    monkeypatch.setattr(bundle, "unpack", parse)
    body = msgspec.json.encode(deployed.request())
    other = signature.sign(b"another key", body, "call-2", time.time())
    for headers in ({}, other, {"Content-Type": bundle.CONTENT_TYPE}):
        response = openfaas.handle(Event(body, headers), None)
        assert response[1] == 401
        assert "sign" in reason_of(response)


def test_answers_a_signed_request_with_a_report(deployed: Deployed) -> None:
    event = signed(msgspec.json.encode(deployed.request()), "call-of-a-report")
    body, status, headers = openfaas.handle(event, None)
    report = codec.decode(Report, body)
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    assert (report.state, report.activation, report.attempt) == ("failed", "call-of-a-report", 1)
    assert report.reason.startswith("BlobMissing")


def test_accepts_a_call_only_once(deployed: Deployed) -> None:
    event = signed(msgspec.json.encode(deployed.request()), "call-of-a-replay")
    assert openfaas.handle(event, None)[1] == 200
    response = openfaas.handle(event, None)
    assert (response[1], "before" in reason_of(response)) == (401, True)


@pytest.mark.parametrize("content_type", ["application/json", bundle.CONTENT_TYPE])
def test_explains_an_invalid_request(deployed: Deployed, content_type: str) -> None:
    for call, body in enumerate((b"", b"{}", b"\xff", bundle.pack(b"{}", {}))):
        event = signed(body, f"malformed {call} {content_type}", **{"Content-Type": content_type})
        response = openfaas.handle(event, None)
        assert response[1] == 400
        assert "not a" in reason_of(response)
    assert deployed.instance.settings.key == KEY


def test_accepts_every_call_without_a_key(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    with Instance(Settings()) as unguarded:
        monkeypatch.setattr(openfaas, "of_this_process", lambda: unguarded)
        body, status, _ = openfaas.handle(Event(msgspec.json.encode(deployed.request())), None)
    assert (status, codec.decode(Report, body).state) == (200, "failed")
    assert "FEDKEEPER_URL" in codec.decode(Report, body).reason
    assert not codec.decode(Report, body).retryable


def test_answers_a_bundle_with_a_bundle(deployed: Deployed) -> None:
    body = deployed.pack(deployed.request(attempt=2))
    event = signed(body, "call-of-a-bundle", **{"content-type": bundle.CONTENT_TYPE})
    content, status, headers = openfaas.handle(event, None)
    assert (status, headers) == (200, {"Content-Type": bundle.CONTENT_TYPE})
    message, blobs = bundle.unpack(content)
    assert codec.decode(Report, message) == Report(
        "job.1.c1", "done", cold=True, attempt=2, activation="call-of-a-bundle"
    )
    update, state = topics.update("job", 1, "c1", 2), topics.client_state("job", "c1", 1, 2, "opt")
    assert blobs.keys() == {update, state}
    header = UpdateHeader.from_metadata(payload.decode(blobs[update])[1])
    assert (header.token, header.samples, header.attempt) == ("t0ken", 10, 2)
    assert (header.states["opt"].topic, header.states["opt"].bytes) == (state, len(blobs[state]))


def test_answers_a_failed_bundle_with_a_report(deployed: Deployed) -> None:
    body = bundle.pack(msgspec.json.encode(deployed.request()), {})
    event = signed(body, "call-of-a-bad-bundle", **{"Content-Type": bundle.CONTENT_TYPE})
    content, status, headers = openfaas.handle(event, None)
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    assert codec.decode(Report, content).reason.startswith("BlobMissing")


@pytest.mark.parametrize("content_type", ["application/json", bundle.CONTENT_TYPE])
def test_reports_a_request_of_a_newer_server(deployed: Deployed, content_type: str) -> None:
    request = newer_request(deployed)
    body = bundle.pack(request, {}) if content_type == bundle.CONTENT_TYPE else request
    event = signed(body, f"newer {content_type}", **{"Content-Type": content_type})
    response, status, headers = openfaas.handle(event, None)
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    check_refused(codec.decode(Report, response), f"newer {content_type}")
