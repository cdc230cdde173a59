"""A large message is written as nats-py would write it, after what waits to be written."""

from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client

from broker.nats.nats_py import send_large

PAYLOAD = bytes(range(256)) * 2000


class Written:
    """A client's transport."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []

    def write(self, part: bytes | memoryview) -> None:
        self.parts.append(part)

    def writelines(self, parts: list[bytes]) -> None:
        self.parts.extend(parts)


@pytest.mark.parametrize("reply", ["", "_INBOX.a.1"])
@pytest.mark.parametrize("headers", [{}, {"Nats-Msg-Id": " a\r\nb ", "Nats-Expected-Last-Subject-Sequence": "0"}])
async def test_the_bytes_are_nats_py_s(reply: str, headers: dict[str, str]) -> None:
    theirs = Client()
    await theirs._send_publish("fl.updates.j.1.c.1", reply, PAYLOAD, len(PAYLOAD), headers)
    written = Written()
    ours: Any = SimpleNamespace(_transport=written, _pending=[b"PING\r\n"], _pending_data_size=6)
    send_large(ours, "fl.updates.j.1.c.1", PAYLOAD, reply=reply, headers=headers)
    assert b"".join(written.parts) == b"PING\r\n" + b"".join(theirs._pending)
    assert (ours._pending, ours._pending_data_size) == ([], 0)


def test_the_payload_is_not_copied() -> None:
    written = Written()
    client: Any = SimpleNamespace(_transport=written, _pending=[], _pending_data_size=0)
    send_large(client, "a", PAYLOAD, reply="", headers={})
    assert [part.obj for part in written.parts if isinstance(part, memoryview)] == [PAYLOAD]
    assert all(len(part) < 100 for part in written.parts if isinstance(part, bytes))
