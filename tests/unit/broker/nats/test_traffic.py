from types import SimpleNamespace
from typing import Any

import pytest

from broker.nats.traffic import SMALL_BYTES, TrafficMonitor


class Writer:
    """The stream writer of a client, with data that is not written yet."""

    def __init__(self) -> None:
        self.waiting = 0
        self.transport = SimpleNamespace(get_write_buffer_size=lambda: self.waiting)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, _name: str) -> object:
        return object()


@pytest.mark.parametrize(
    ("amounts", "moved"),
    [
        ([0, 100, 0, SMALL_BYTES], [False, False, False, False]),
        ([3_000_000, 2_000_000, 2_000_000, 0], [True, True, False, True]),
    ],
)
def test_small_requests_on_their_way_are_no_sign_of_a_slow_link(amounts: list[int], moved: list[bool]) -> None:
    writer = Writer()
    parser = SimpleNamespace(state=0, needed=0, buf=b"")
    client: Any = SimpleNamespace(_transport=SimpleNamespace(_io_writer=writer), _pending_data_size=0, _ps=parser)
    monitor, seen = TrafficMonitor(client), list[bool]()
    for writer.waiting in amounts:
        seen.append(monitor.has_moved())
    assert seen == moved
