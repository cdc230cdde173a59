"""A replay whose stream has become shorter than the part that was read."""

from typing import Any

import pytest

from broker import BrokerUrl
from broker.errors import Disconnected, StoreChanged
from broker.nats.consumers import ConsumerInfo, Replay, _Delivered
from broker.nats.pull import Arrival

FILTER = "fl.progress.job-1.>"


class FakeConnection:
    """A connection to a server whose stream ends at `last`.

    Attributes:
        made: the start of each consumer that was created.
    """

    address = BrokerUrl.parse("nats://host")

    def __init__(self, last: int) -> None:
        self.last = last
        self.made: list[tuple[str, int | None]] = []

    async def call_api(self, _topic: str, call: str, request: Any, response: type[Any]) -> Any:
        if not call.startswith("CONSUMER.CREATE"):
            return response()
        config = request["config"]
        self.made.append((config["deliver_policy"], config.get("opt_start_seq")))
        # As nats-server 2.15 does: a consumer beyond the end of its stream is created without an error.
        begin = self.last if config["deliver_policy"] == "new" else config.get("opt_start_seq", 1) - 1
        return ConsumerInfo(config["name"], config, _Delivered(begin))


async def opened(replay: Replay, server: FakeConnection) -> None:
    connection: Any = server
    async with replay.open(connection):
        pass


async def read_up_to(sequence: int) -> Replay:
    replay = Replay(FILTER)
    connection: Any = FakeConnection(sequence)
    message: Any = None
    async with replay.open(connection):
        assert replay.accept(Arrival(message, sequence, consumer_sequence=1, attempt=1, time_s=0.0, pending=0))
    return replay


async def test_a_replay_goes_on_after_the_last_message_that_it_has_read() -> None:
    server = FakeConnection(7)
    await opened(await read_up_to(7), server)
    assert server.made == [("new", None), ("by_start_sequence", 8)]


async def test_a_replay_beyond_the_end_of_its_stream_is_not_deaf() -> None:
    replay, server = await read_up_to(7), FakeConnection(3)
    for _ in range(2):
        with pytest.raises(Disconnected) as failed:
            await opened(replay, server)
        assert not isinstance(failed.value, StoreChanged)
    with pytest.raises(StoreChanged, match="up to message 7, and the last one now is 3"):
        await opened(replay, server)


async def test_a_stream_that_looked_shorter_for_a_moment_is_the_same() -> None:
    replay = await read_up_to(7)
    with pytest.raises(Disconnected):
        await opened(replay, FakeConnection(3))
    server = FakeConnection(8)
    await opened(replay, server)
    assert server.made[-1] == ("by_start_sequence", 8)
