from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker import BrokerUrl
from broker.errors import ForeignStream, Unsupported
from broker.families import FAMILIES, Keep, family_of
from broker.nats.errors import ApiError, StreamMissing, api_error
from broker.nats.seen import Seen
from broker.nats.streams import differences, ensure, refuse_foreign, settings

EXPECTED = {family.name: settings(family, f"FEDKEEPER_{family.name}") for family in FAMILIES}


def on_server(expected: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a configuration as the server returns it: without false or zero settings, and with some of its own."""
    config = {key: value for key, value in expected.items() if value}
    return config | {"compression": "none", "metadata": {"_nats.ver": "2.15.1", **expected["metadata"]}} | changes


@pytest.mark.parametrize("name", EXPECTED)
def test_a_new_stream_is_ours_and_needs_no_repair(name: str) -> None:
    actual = on_server(EXPECTED[name])
    refuse_foreign(EXPECTED[name], actual)
    assert differences(EXPECTED[name], actual) == {}


def test_only_the_relaxed_family_is_written_asynchronously() -> None:
    assert {name for name, config in EXPECTED.items() if "persist_mode" in config} == {"STATUS"}


def test_write_once_families_refuse_a_second_payload() -> None:
    for family in FAMILIES:
        once = EXPECTED[family.name]["discard_new_per_subject"], EXPECTED[family.name]["max_msgs_per_subject"]
        assert (once == (True, 1)) == (family.keep is Keep.FIRST)


def test_logs_and_queues_take_batches_where_the_server_knows_them() -> None:
    taking = {family.name for family in FAMILIES if EXPECTED[family.name]["allow_atomic"]}
    assert taking == {family.name for family in FAMILIES if family.keep in {Keep.LOG, Keep.QUEUE}}
    for family in FAMILIES:
        # A server before 2.12 does not know the setting, and must not be asked to change it each time.
        older = settings(family, f"FEDKEEPER_{family.name}", has_batches=False)
        actual = {key: value for key, value in EXPECTED[family.name].items() if key != "allow_atomic"}
        assert differences(older, on_server(actual)) == {}


def test_a_server_without_persist_mode_needs_no_update() -> None:
    actual = on_server(EXPECTED["STATUS"])
    del actual["persist_mode"]
    assert differences(EXPECTED["STATUS"], actual) == {}


@pytest.mark.parametrize(("key", "value"), [("max_bytes", 1), ("num_replicas", 3), ("description", "watched by ops")])
def test_settings_of_the_operator_stay(key: str, value: object) -> None:
    actual = on_server(EXPECTED["PROGRESS"], **{key: value})
    refuse_foreign(EXPECTED["PROGRESS"], actual)
    assert differences(EXPECTED["PROGRESS"], actual) == {}


@pytest.mark.parametrize(("actual", "changed"), [(1, {"num_replicas": 3}), (3, {}), (5, {})])
def test_replicas_are_raised_and_never_lowered(actual: int, changed: dict[str, int]) -> None:
    family = family_of("fl.progress.>")
    expected = settings(family, "FEDKEEPER_PROGRESS", replicas=3)
    assert differences(expected, on_server(expected, num_replicas=actual)) == changed


@pytest.mark.parametrize("cluster", [{"replicas": 3}, {"is_clustered": True}])
def test_no_stream_of_a_cluster_has_a_setting_that_excludes_replicas(cluster: dict[str, Any]) -> None:
    assert not [family for family in FAMILIES if "persist_mode" in settings(family, family.name, **cluster)]


@pytest.mark.parametrize(
    ("key", "value"), [("max_age", 1), ("subjects", ["fl.progress.>"]), ("discard", "new"), ("allow_direct", False)]
)
def test_only_changed_settings_are_repaired(key: str, value: object) -> None:
    actual = on_server(EXPECTED["PROGRESS"], **{key: value})
    refuse_foreign(EXPECTED["PROGRESS"], actual)
    assert differences(EXPECTED["PROGRESS"], actual) == {key: EXPECTED["PROGRESS"][key]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"metadata": {}}, "?streams=PREFIX"),
        ({"metadata": None}, "?streams=PREFIX"),
        ({"metadata": {"owner": "plant"}}, "?streams=PREFIX"),
        ({"subjects": ["fl.progress.>", "plant.>"]}, "?streams=PREFIX"),
        ({"retention": "workqueue"}, "retention is workqueue and must be limits"),
        ({"storage": "memory"}, "storage is memory and must be file"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject is 1 and must be -1"),
    ],
)
def test_a_foreign_stream_is_refused(change: dict[str, Any], complaint: str) -> None:
    actual = on_server(EXPECTED["PROGRESS"]) | change
    with pytest.raises(ForeignStream) as refused:
        refuse_foreign(EXPECTED["PROGRESS"], actual)
    assert complaint in str(refused.value)
    assert (refused.value.stream, refused.value.subjects) == ("FEDKEEPER_PROGRESS", tuple(actual["subjects"]))


def test_another_schema_is_refused() -> None:
    actual = on_server(EXPECTED["PROGRESS"]) | {"metadata": {"fedkeeper.schema": "2"}}
    with pytest.raises(Unsupported, match=r"schema 2, this one has 1"):
        refuse_foreign(EXPECTED["PROGRESS"], actual)


class OldServer:
    """A nats-server before 2.10: it keeps no metadata."""

    address = BrokerUrl.parse("nats://host")
    is_clustered = False
    api_level = 0
    seen = Seen()

    async def retry(self, attempt: Callable[[Any], Awaitable[None]]) -> None:
        await attempt(self)

    async def call_api(self, topic: str, call: str, request: dict[str, Any], response: Any) -> Any:
        if call.startswith("STREAM.INFO"):
            raise StreamMissing(topic)
        if call == "STREAM.LIST":
            return response([])
        return response({key: value for key, value in request.items() if key != "metadata"})


async def test_a_server_without_metadata_is_too_old() -> None:
    link: Any = OldServer()
    with pytest.raises(Unsupported, match=r"NATS 2.10 or newer"):
        await ensure(link)


class Server:
    """A nats-server with streams whose replicas can't be raised."""

    is_clustered = False
    api_level = 2

    def __init__(self, url: str, error: ApiError | None = None, **changes: Any) -> None:
        self.address = BrokerUrl.parse(url)
        self.seen = Seen()
        self._error = error
        self._changes = changes

    async def retry(self, attempt: Callable[[Any], Awaitable[None]]) -> None:
        await attempt(self)

    async def call_api(self, topic: str, call: str, _request: dict[str, Any], response: Any) -> Any:
        verb, name = call.split(".")[1:3]
        if verb == "INFO":
            return response(on_server(EXPECTED[name.removeprefix("FEDKEEPER_")], **self._changes))
        assert self._error is not None
        raise api_error(topic, self._error)


@pytest.mark.parametrize(
    "error",
    [
        ApiError(500, 10074, "replicas > 1 not supported in non-clustered mode"),
        ApiError(400, 10005, "no suitable peers for placement"),
    ],
)
async def test_replicas_that_the_server_can_t_keep_are_refused_with_the_remedy(error: ApiError) -> None:
    link: Any = Server("nats://host?replicas=3", error)
    with pytest.raises(Unsupported) as refused:
        await ensure(link)
    assert "nats://host:4222 can't keep 3 replicas of FEDKEEPER_" in str(refused.value)
    assert error.description in str(refused.value)
    assert "a cluster of 3 nodes" in str(refused.value)


async def test_a_stream_that_can_t_be_replicated_is_named_with_the_remedy() -> None:
    link: Any = Server("nats://host?replicas=3", num_replicas=1, persist_mode="async")
    with pytest.raises(Unsupported, match=r"nats stream rm FEDKEEPER_"):
        await ensure(link)


async def test_without_a_wish_an_operator_s_replicas_stay() -> None:
    link: Any = Server("nats://host", num_replicas=5)
    await ensure(link)
