"""Requests of the platforms for their handlers, and an instance that executes them."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from broker.messages import bundle
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.round import RoundTask
from client_fn.runtime.instance import Instance

KEY = b"bridge key"
HIDDEN = "Basic czNjcmV0OnMzY3JldA=="


@dataclass
class Event:
    """A request as OpenFaaS's template passes it."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/"


@dataclass
class CloudEvent:
    """An event as functions-framework passes it."""

    data: Any
    id: str = "message-7"

    def __getitem__(self, name: str) -> Any:
        return {"id": self.id}[name]


@dataclass
class Deployed:
    """The instance that the handlers use, a task for it, and the task's global model."""

    instance: Instance
    task: RoundTask
    model: bytes

    def request(self, attempt: int = 1, **changes: Any) -> InvocationRequest:
        return InvocationRequest(msgspec.structs.replace(self.task, **changes), attempt)

    def pack(self, request: InvocationRequest) -> bytes:
        return bundle.pack(msgspec.json.encode(request), {request.task.model.topic: self.model})


def newer_request(deployed: Deployed) -> bytes:
    """Return a request that this function can't decode: of a newer schema, and with changed fields."""
    raw = msgspec.to_builtins(deployed.request(attempt=2))
    raw["task"] = {**raw["task"], "schema": 2, "deadline_s": "soon"}
    return msgspec.json.encode(raw)


def check_refused(report: Report, activation: str) -> None:
    assert (report.id, report.state, report.retryable) == ("job.1.c1", "failed", False)
    assert (report.attempt, report.activation) == (2, activation)
    assert "package and deploy the functions with the version of the server" in report.reason
