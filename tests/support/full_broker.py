"""A broker that has no room for some topics until the test makes some."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker.base import Broker
from broker.errors import StorageFull


class Room:
    """Lets a broker refuse what it has no room for.

    Attributes:
        full: beginnings of the topics without room.
        refusals: the refused topics, in order.
    """

    def __init__(self, bus: Broker, patch: pytest.MonkeyPatch) -> None:
        self.full: tuple[str, ...] = ()
        self.refusals: list[str] = []
        for name in ("publish", "put"):
            patch.setattr(bus, name, self._limited(getattr(bus, name)))

    def _limited(self, write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def write_or_refuse(topic: str, *args: Any, **options: Any) -> Any:
            if self.full and topic.startswith(self.full):
                self.refusals.append(topic)
                raise StorageFull(topic, "insufficient resources (503/10023)")
            return await write(topic, *args, **options)

        return write_or_refuse
