"""The platforms' handlers: what they take, what they answer, and what they keep to themselves."""

import asyncio
import base64
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from broker import topics
from broker.messages import bundle, codec, signature
from broker.messages import tensors as payload
from broker.messages.errors import DecodeError
from broker.messages.invocation import Order, OrderName, Report
from broker.messages.round import RoundTask
from broker.messages.update import UpdateHeader
from client_fn.data import shards
from client_fn.handlers import gcf, local, openfaas, openwhisk
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from client_fn.training import tensors
from tests.support.function_site import FAR, HOW, SMALL, model_ref

KEY = b"bridge key"
HIDDEN = "Basic czNjcmV0OnMzY3JldA=="


@dataclass
class Event:
    """A request as OpenFaaS's template hands it over."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/"


@dataclass
class CloudEvent:
    """An event as functions-framework hands it over."""

    data: Any
    id: str = "message-7"

    def __getitem__(self, name: str) -> Any:
        return {"id": self.id}[name]


@dataclass
class Deployed:
    """An instance that the handlers find, and a task for it."""

    instance: Instance
    task: RoundTask
    model: bytes

    def order(self, attempt: int = 1, **changes: Any) -> Order:
        return Order(msgspec.structs.replace(self.task, **changes), attempt)

    def parcel(self, order: Order) -> bytes:
        return bundle.pack(msgspec.json.encode(order), {order.task.model.topic: self.model})


@pytest.fixture
def deployed(tmp_path: Path, memory_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    """The broker that the instance knows is empty; a parcel brings the model along."""
    data_loc = f"{tmp_path}/shard.safetensors"
    shards.write(data_loc, np.random.default_rng(1).random((10, 2, 2), dtype=np.float32), np.arange(10) % 3)
    model, _ = tensors.initial(SMALL, 1)
    task = RoundTask(
        client_id="c1",
        client_type="openfaas",
        url="",
        model_configuration=SMALL,
        data_loc=data_loc,
        training_hyperparameters=HOW,
        job="job",
        round=1,
        model=model_ref(model),
        state=None,
        token="t0ken",  # noqa: S106 (nobody's)
        seed=7,
        deadline_s=FAR,
        max_attempts=3,
    )
    with Instance(Settings(memory_url, "c1", KEY)) as instance:
        for handler in (openfaas, openwhisk, gcf):
            monkeypatch.setattr(handler, "of_this_process", lambda: instance)
        yield Deployed(instance, task, model)


def signed(body: bytes, call_id: str = "call-1", **headers: str) -> Event:
    return Event(body, {**signature.sign(KEY, body, call_id, time.time()), **headers})


def reason_of(answer: openfaas.Response) -> str:
    body, _, headers = answer
    assert headers == {"Content-Type": "application/json"}
    return str(json.loads(body)["reason"])


def test_openfaas_answers_the_health_check_without_a_signature() -> None:
    assert openfaas.handle(Event(path="/healthz"), None) == (b"", 200, {})


def test_openfaas_refuses_what_is_not_signed_before_it_looks_into_it(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(*_: object) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(codec, "decode", looked)
    monkeypatch.setattr(bundle, "unpack", looked)
    body = msgspec.json.encode(deployed.order())
    other = signature.sign(b"another key", body, "call-2", time.time())
    for headers in ({}, other, {"Content-Type": bundle.CONTENT_TYPE}):
        answer = openfaas.handle(Event(body, headers), None)
        assert answer[1] == 401
        assert "sign" in reason_of(answer)


def test_openfaas_answers_a_signed_order_with_a_report(deployed: Deployed) -> None:
    event = signed(msgspec.json.encode(deployed.order()), "call-of-a-report")
    body, status, headers = openfaas.handle(event, None)
    report = codec.decode(Report, body)
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    assert (report.state, report.activation, report.attempt) == ("failed", "call-of-a-report", 1)
    assert report.reason.startswith("BlobMissing")


def test_openfaas_takes_a_call_once(deployed: Deployed) -> None:
    event = signed(msgspec.json.encode(deployed.order()), "call-of-a-replay")
    assert openfaas.handle(event, None)[1] == 200
    answer = openfaas.handle(event, None)
    assert (answer[1], "before" in reason_of(answer)) == (401, True)


@pytest.mark.parametrize("content_type", ["application/json", bundle.CONTENT_TYPE])
def test_openfaas_says_what_is_wrong_with_an_order(deployed: Deployed, content_type: str) -> None:
    for call, body in enumerate((b"", b"{}", b"\xff", bundle.pack(b"{}", {}))):
        event = signed(body, f"malformed {call} {content_type}", **{"Content-Type": content_type})
        answer = openfaas.handle(event, None)
        assert answer[1] == 400
        assert "not a" in reason_of(answer)
    assert deployed.instance.settings.key == KEY


def test_openfaas_takes_any_call_where_no_key_was_agreed_upon(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Instance(Settings()) as unguarded:
        monkeypatch.setattr(openfaas, "of_this_process", lambda: unguarded)
        body, status, _ = openfaas.handle(Event(msgspec.json.encode(deployed.order())), None)
    assert (status, codec.decode(Report, body).state) == (200, "failed")
    assert "FEDKEEPER_URL" in codec.decode(Report, body).reason
    assert not codec.decode(Report, body).retryable


def test_openfaas_answers_a_parcel_with_a_parcel(deployed: Deployed) -> None:
    body = deployed.parcel(deployed.order(attempt=2))
    event = signed(body, "call-of-a-parcel", **{"content-type": bundle.CONTENT_TYPE})
    content, status, headers = openfaas.handle(event, None)
    assert (status, headers) == (200, {"Content-Type": bundle.CONTENT_TYPE})
    message, blobs = bundle.unpack(content)
    assert codec.decode(Report, message) == Report(
        "job.1.c1", "done", cold=True, attempt=2, activation="call-of-a-parcel"
    )
    update, state = topics.update("job", 1, "c1", 2), topics.optimizer_state("job", "c1", 1, 2)
    assert blobs.keys() == {update, state}
    header = UpdateHeader.from_metadata(payload.decode(blobs[update])[1])
    assert (header.token, header.samples, header.attempt) == ("t0ken", 10, 2)
    assert header.state is not None
    assert (header.state.topic, header.state.bytes) == (state, len(blobs[state]))


def test_openfaas_answers_a_parcel_that_fails_with_a_report(deployed: Deployed) -> None:
    body = bundle.pack(msgspec.json.encode(deployed.order()), {})
    event = signed(body, "call-of-a-bad-parcel", **{"Content-Type": bundle.CONTENT_TYPE})
    content, status, headers = openfaas.handle(event, None)
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    assert codec.decode(Report, content).reason.startswith("BlobMissing")


def test_openwhisk_returns_the_report(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__OW_ACTIVATION_ID", "0123456789abcdef")
    answer = openwhisk.main({"order": msgspec.to_builtins(deployed.order(attempt=3))})
    report = codec.decode(Report, json.dumps(answer, allow_nan=False).encode())
    assert (report.id, report.state, report.attempt) == ("job.1.c1", "failed", 3)
    assert report.activation == "0123456789abcdef"


@pytest.mark.parametrize(
    "params", [{}, {"order": None}, {"order": {}}, {"order": "x"}, {"order": "\ud800"}, {"order": float("nan")}]
)
def test_openwhisk_answers_what_is_no_order_with_an_error(params: dict[str, Any]) -> None:
    answer = openwhisk.main(params)
    assert answer.keys() == {"error"}
    assert "not a valid Order" in answer["error"]
    json.dumps(answer, allow_nan=False).encode()


def test_openwhisk_lets_nobody_see_the_caller_s_headers(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even where something fails that is none of our errors, so that a traceback is logged."""

    def fails(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    headers = {"authorization": HIDDEN, "host": "whisk.example"}
    monkeypatch.setattr(shards, "read", fails)
    seen: list[Any] = []
    with capture_logs() as logs:
        for order in (msgspec.to_builtins(deployed.order()), None, {"token": 5}):
            params = {"__ow_headers": headers, "__ow_user": HIDDEN, "order": order}
            seen.append(openwhisk.main(params))
            assert params.keys() == {"order"}
    assert [answer.get("state", "error") for answer in seen] == ["failed", "error", "error"]
    written = capfd.readouterr()
    assert HIDDEN not in f"{seen} {logs} {written.out} {written.err}"


def test_gcf_does_what_a_message_says_and_acknowledges_it(deployed: Deployed) -> None:
    data = base64.b64encode(msgspec.json.encode(deployed.order(attempt=2))).decode()
    with capture_logs() as logs:
        gcf.train(CloudEvent({"subscription": "s", "message": {"data": data, "messageId": "message-7"}}))
    answered = next(entry for entry in logs if entry["event"] == "order answered")
    assert (answered["task"], answered["state"]) == ("job.1.c1", "failed")


def test_gcf_hands_the_message_s_id_on(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Order, str]] = []

    def run(order: Order, *, activation: str) -> Report:
        asked.append((order, activation))
        return Report(order.task.id, "done")

    monkeypatch.setattr(deployed.instance, "run", run)
    data = base64.b64encode(msgspec.json.encode(deployed.order())).decode()
    gcf.train(CloudEvent({"message": {"data": data}}, "message-9"))
    assert asked == [(deployed.order(), "message-9")]


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
def test_gcf_acknowledges_what_is_no_order_and_says_so(data: Any) -> None:
    with capture_logs() as logs:
        gcf.train(CloudEvent(data))
    assert [(entry["event"], entry["message"]) for entry in logs] == [("no order", "message-7")]


def test_errors_of_ours_are_none_of_the_platform_s() -> None:
    """A refusal's reason is for the bridge: it shows nothing of what was sent."""
    with pytest.raises(DecodeError) as refused:
        codec.decode(Order, b'{"task": "hunter2"}')
    assert "hunter2" not in str(refused.value)


def newer(deployed: Deployed) -> bytes:
    """An order that this function can't read: of a newer schema, and with other fields."""
    raw = msgspec.to_builtins(deployed.order(attempt=2))
    raw["task"] = {**raw["task"], "schema": 2, "deadline_s": "soon"}
    return msgspec.json.encode(raw)


def check_refused(report: Report, activation: str) -> None:
    assert (report.id, report.state, report.retryable) == ("job.1.c1", "failed", False)
    assert (report.attempt, report.activation) == (2, activation)
    assert "package and deploy the functions with the version of the server" in report.reason


@pytest.mark.parametrize("content_type", ["application/json", bundle.CONTENT_TYPE])
def test_openfaas_reports_an_order_of_a_newer_server(deployed: Deployed, content_type: str) -> None:
    order = newer(deployed)
    body = bundle.pack(order, {}) if content_type == bundle.CONTENT_TYPE else order
    event = signed(body, f"newer {content_type}", **{"Content-Type": content_type})
    answer, status, headers = openfaas.handle(event, None)
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    check_refused(codec.decode(Report, answer), f"newer {content_type}")


def test_openwhisk_reports_an_order_of_a_newer_server(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__OW_ACTIVATION_ID", "a-1")
    answer = openwhisk.main({"order": json.loads(newer(deployed))})
    check_refused(msgspec.convert(answer, Report), "a-1")


def test_gcf_reports_an_order_of_a_newer_server(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse, told = deployed.instance.refuse, list[Report]()

    def refused(order: OrderName, exc: DecodeError, *, activation: str) -> Report:
        told.append(refuse(order, exc, activation=activation))
        return told[-1]

    monkeypatch.setattr(deployed.instance, "refuse", refused)
    gcf.train(CloudEvent({"message": {"data": base64.b64encode(newer(deployed)).decode()}}))
    check_refused(told[0], "message-7")


async def test_a_worker_reports_an_order_of_a_newer_server_and_lives_on(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    orders, reports = asyncio.StreamReader(), io.BytesIO()
    orders.feed_data(newer(deployed) + b"\n" + newer(deployed) + b"\n")
    orders.feed_eof()
    await local.serve(deployed.instance.settings.url, orders, reports)
    told = [codec.decode(Report, line) for line in reports.getvalue().splitlines()]
    assert (len(told), ended) == (2, [0])
    check_refused(told[1], "")
