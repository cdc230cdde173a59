"""Whoever writes weights looks at the reserve before, and not again within a moment if it was not in use."""

from types import SimpleNamespace
from typing import Any

import pytest

from broker.errors import StorageFull
from broker.nats import reserve
from broker.nats.reserve import IN_USE, Reserve
from broker.url import BrokerUrl


@pytest.mark.parametrize(
    ("last", "look_s", "looks"), [(b"", 1e9, 1), (b"", 0.0, 3), (IN_USE, 1e9, 3)], ids=["soon", "later", "in use"]
)
async def test_how_often_three_writes_look(
    last: bytes, look_s: float, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "LOOK_S", look_s)
    asked: list[str] = []

    async def request(subject: str, _payload: bytes) -> object:
        asked.append(subject)
        return SimpleNamespace(data=last)

    link: Any = SimpleNamespace(address=BrokerUrl.parse("nats://localhost"))
    connection: Any = SimpleNamespace(request=request)
    held, refused = Reserve(link), 0
    for _ in range(3):
        try:
            await held.refuse_if_in_use(connection, "fl.updates.j.1.c.1")
        except StorageFull:
            refused += 1
    assert len(asked) == looks
    assert refused == (3 if last == IN_USE else 0)
