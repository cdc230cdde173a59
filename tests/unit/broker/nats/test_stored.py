"""Reads in a cluster whose followers are behind."""

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from broker import BrokerUrl, topics
from broker.errors import Denied
from broker.nats.errors import decode
from broker.nats.seen import Seen
from broker.nats.stored import Stored, StoredMessages

RECORD, MODEL = topics.job_record("job"), topics.model("job", "ab" * 32)
OLD, NEW = (b"old", 1, "first"), (b"new", 2, "second")
Message = tuple[bytes, int, str]


class Cluster:
    """A link to a node that answers direct gets, and to the streams' leader."""

    address = BrokerUrl.parse("nats://host")
    large_answers: AbstractAsyncContextManager[None] = nullcontext()

    def __init__(
        self, follower: Message | None, leader: Message | None, *, is_clustered: bool = True, may_ask: bool = True
    ) -> None:
        self.is_clustered = is_clustered
        self.asked: list[Any] = []
        self.seen = Seen()
        self._follower = follower
        self._leader = leader
        self._may_ask = may_ask

    async def retry_on(self, _topic: str, attempt: Callable[[Any], Awaitable[Any]]) -> Any:
        return await attempt(self)

    async def request(self, subject: str, _payload: bytes) -> Any:
        assert subject.startswith("$JS.API.DIRECT.GET.FEDKEEPER_")
        if self._follower is None:
            return SimpleNamespace(data=b"", headers={"Status": "404"})
        payload, sequence, message_id = self._follower
        return SimpleNamespace(data=payload, headers={"Nats-Sequence": str(sequence), "Nats-Msg-Id": message_id})

    async def call_api(self, topic: str, call: str, request: object, response: Any) -> Any:
        self.asked.append((call, request))
        if not self._may_ask:
            raise Denied(call, "permissions violation")
        if self._leader is None:
            return decode(topic, b'{"error": {"code": 404, "err_code": 10037, "description": "none"}}', response)
        payload, sequence, message_id = self._leader
        headers = f"NATS/1.0\r\nNats-Msg-Id: {message_id}\r\n\r\n".encode()
        fields = {"data": b64encode(payload).decode(), "hdrs": b64encode(headers).decode()}
        return decode(topic, json.dumps({"message": {"seq": sequence, **fields}}).encode(), response)


async def read(cluster: Cluster, topic: str) -> Stored | None:
    link: Any = cluster
    return await StoredMessages(link).last(topic)


@pytest.mark.parametrize(("follower", "leader"), [(OLD, NEW), (None, NEW), (OLD, None)])
async def test_a_value_is_what_the_leader_says(follower: Message | None, leader: Message | None) -> None:
    cluster = Cluster(follower, leader)
    assert await read(cluster, RECORD) == (Stored(*leader) if leader else None)
    assert cluster.asked == [("STREAM.MSG.GET.FEDKEEPER_RECORDS", {"last_by_subj": RECORD})]


async def test_a_payload_that_never_changes_is_read_from_any_node() -> None:
    cluster = Cluster(OLD, NEW)
    assert await read(cluster, MODEL) == Stored(*OLD)
    assert not cluster.asked


async def test_a_payload_that_a_node_has_not_yet_is_asked_of_the_leader() -> None:
    assert await read(Cluster(None, NEW), MODEL) == Stored(*NEW)
    assert await read(Cluster(None, None), MODEL) is None


async def test_a_single_server_is_read_directly() -> None:
    cluster = Cluster(OLD, NEW, is_clustered=False)
    assert await read(cluster, RECORD) == Stored(*OLD)
    assert not cluster.asked


async def test_who_may_not_ask_the_leader_reads_directly_and_asks_only_once() -> None:
    link: Any = (cluster := Cluster(OLD, NEW, may_ask=False))
    reader = StoredMessages(link)
    assert [await reader.last(RECORD) for _ in range(3)] == [Stored(*OLD)] * 3
    assert await reader.newest_sequence("fl.rounds.*") == 0
    assert len(cluster.asked) == 1


async def test_how_far_a_snapshot_must_read() -> None:
    link: Any = Cluster(OLD, NEW)
    assert await StoredMessages(link).newest_sequence("fl.rounds.*") == 2
