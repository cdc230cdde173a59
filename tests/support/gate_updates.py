"""Updates for the gate's tests, and the expectation that they meet."""

from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from broker.messages.job_record import Member
from broker.messages.round import token
from broker.messages.tensors import DTYPES, Tensors
from broker.messages.update import UpdateHeader
from server import aggregator, gate
from server.errors import Refused
from server.gate import Checked, Expectation

BASE = "ab" * 32
NONCE = "nonce-of-round-3"
MODEL: Tensors = {
    "F64": np.array([1.0, -1.0]),
    "F32": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "F16": np.ones(5, np.float16),
    "BF16": np.ones((2, 2), DTYPES["BF16"]),
    "I64": np.array(7),
    "BOOL": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
}
PLAN = aggregator.plan(MODEL, frozenset(), 10_000)
MEMBERS = {
    "c-0": Member("c-0", "local", "", "", 600),
    "c-1": Member("c-1", "local", "", "", 0),
    "c-2": Member("c-2", "local", "", "", 50),
}
EXPECTED = Expectation("demo", 3, BASE, NONCE, MEMBERS, PLAN, max_samples=1000)
HEADER = UpdateHeader(
    job="demo",
    round=3,
    attempt=1,
    client="c-0",
    samples=600,
    base=BASE,
    token=token(NONCE, "c-0"),
    metrics={"loss": 0.5},
    seconds={"train": 1.5},
)


def header_of(client: str = "c-0", **changes: Any) -> UpdateHeader:
    """Return the valid header of a client's update, with changes."""
    own = {"client": client, "token": token(NONCE, client), "samples": 50}
    return msgspec.structs.replace(HEADER, **(own | changes))


def encode(tensors: Tensors, header: UpdateHeader) -> bytes:
    """Return an update as a safetensors file."""
    return safetensors.numpy.save(tensors, header.to_metadata())


def update(client: str = "c-0", tensors: Tensors | None = None, **changes: Any) -> bytes:
    """Return a valid update of a client, with changes of its header."""
    return encode(MODEL if tensors is None else tensors, header_of(client, **changes))


def pass_gate(
    blob: bytes,
    topic: str = "fl.updates.demo.3.c-0.1",
    counted: tuple[str, ...] = (),
    expected: Expectation = EXPECTED,
) -> tuple[UpdateHeader, Tensors]:
    """Pass an update through the gate, and return its metadata and its tensors. None of them is `int8`."""
    header, tensors, _ = check(blob, topic, counted, expected)
    return header, {name: tensor for name, tensor in tensors.items() if isinstance(tensor, np.ndarray)}


def check(
    blob: bytes,
    topic: str = "fl.updates.demo.3.c-0.1",
    counted: tuple[str, ...] = (),
    expected: Expectation = EXPECTED,
) -> Checked:
    """Pass an update through the gate."""
    address = gate.parse_topic(topic)
    gate.admit(address, expected, counted)
    return gate.check(blob, address, expected)


def code_of(
    blob: bytes,
    topic: str = "fl.updates.demo.3.c-0.1",
    counted: tuple[str, ...] = (),
    expected: Expectation = EXPECTED,
) -> str:
    """Return the code with which the gate refuses an update."""
    with pytest.raises(Refused) as refused:
        pass_gate(blob, topic, counted, expected)
    # The reason is published as JSON.
    msgspec.json.encode(refused.value.reason)
    assert NONCE not in refused.value.reason
    assert HEADER.token not in refused.value.reason
    return refused.value.code
