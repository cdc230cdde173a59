"""What the platforms' handlers are called with, and an instance that they find."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from broker.messages import bundle
from broker.messages.invocation import Order
from broker.messages.round import RoundTask
from client_fn.runtime.instance import Instance

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
