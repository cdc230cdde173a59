"""Our streams have our names and our mark. A stream of another owner is never changed."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

import broker
from broker import Broker, topics
from broker.errors import BrokerError, Denied, ForeignStream, NoSystem, OldStore, Unsupported
from broker.families import FAMILIES
from broker.nats.old_store import STREAMS
from broker.nats.server import NatsServer
from tests.support.paths import REPOSITORY

RECORD = topics.job_record("job-1")
MODEL = topics.model("job-1", "ab" * 32)
SOON_S = 10.0


async def api(client: Client, call: str, request: object = None) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.{call}", json.dumps(request or {}).encode(), timeout=SOON_S)
    reply: dict[str, Any] = json.loads(answer.data)
    return reply


async def create(client: Client, name: str, *subjects: str, **more: Any) -> None:
    answer = await api(client, f"STREAM.CREATE.{name}", {"name": name, "subjects": subjects, **more})
    assert "error" not in answer, answer


async def streams(client: Client) -> dict[str, Any]:
    """Configuration and number of messages of every stream, by name."""
    infos = (await api(client, "STREAM.LIST"))["streams"] or []
    return {info["config"]["name"]: (info["config"], info["state"]["messages"]) for info in infos}


async def names(client: Client) -> set[str]:
    return set(await streams(client))


async def refusal(url: str, *, provision: bool = True) -> BrokerError:
    with pytest.raises(BrokerError) as refused:
        async with asyncio.timeout(SOON_S), broker.connect(url, provision=provision):
            pass
    return refused.value


async def works(bus: Broker) -> None:
    """Put, get, publish, a queue and a replay."""
    await bus.put(RECORD, b"1", revision=0)
    assert await bus.get(RECORD) == broker.Value(RECORD, b"1", 1)
    large = bytes(range(256)) * (20 << 10)
    await bus.publish(MODEL, large)
    value = await bus.get(MODEL)
    assert value is not None
    assert value.payload == large
    async with asyncio.timeout(SOON_S), bus.subscribe(topics.platform_tasks("edge"), durable="bridge") as tasks:
        await bus.publish(topics.task("edge", "c-1"), b"train")
        delivery = await anext(tasks)
        assert await delivery.read() == b"train"
        await delivery.ack()
    assert list(await bus.snapshot(topics.job_record(topics.ANY))) == [RECORD]
    await bus.purge("fl.models.>")
    assert await bus.get(MODEL) is None


async def test_our_streams_have_names_and_a_mark_of_our_own(nats_server: NatsServer, client: Client) -> None:
    async with broker.connect(nats_server.url):
        created = await streams(client)
    assert set(created) == {f"FEDKEEPER_{family.name}" for family in FAMILIES}
    assert {config["metadata"]["fedkeeper.schema"] for config, _ in created.values()} == {"1"}


async def test_only_what_may_be_lost_is_acknowledged_before_it_is_stored(
    nats_server: NatsServer, client: Client
) -> None:
    async with broker.connect(nats_server.url):
        created = await streams(client)
    relaxed = {name for name, (config, _) in created.items() if config.get("persist_mode") == "async"}
    assert relaxed == {f"FEDKEEPER_{family.name}" for family in FAMILIES if family.relaxed} == {"FEDKEEPER_STATUS"}


async def test_a_second_connection_changes_nothing(nats_server: NatsServer, client: Client) -> None:
    """Also where the persist mode is another one: it can't be changed, and servers before 2.12 have none."""
    async with broker.connect(nats_server.url):
        status, _ = (await streams(client))["FEDKEEPER_STATUS"]
        await api(client, "STREAM.DELETE.FEDKEEPER_STATUS")
        del status["persist_mode"]
        assert "error" not in await api(client, "STREAM.CREATE.FEDKEEPER_STATUS", status)
        before = await streams(client)
    changes = await client.subscribe("$JS.API.STREAM.UPDATE.>")
    await client.flush()
    async with broker.connect(nats_server.url):
        assert await streams(client) == before
    await client.flush()
    assert changes.pending_msgs == 0
    # The same, where one setting was changed: only that stream is.
    progress, _ = before["FEDKEEPER_PROGRESS"]
    await api(client, "STREAM.UPDATE.FEDKEEPER_PROGRESS", {**progress, "max_age": 600 * 10**9})
    async with broker.connect(nats_server.url):
        assert await streams(client) == before
    await client.flush()
    assert changes.pending_msgs == 2


async def test_another_application_s_streams_are_left_alone(nats_server: NatsServer, client: Client) -> None:
    for name in STREAMS:
        await create(client, name, f"plant.{name}.*")
        for number in range(3):
            await client.request(f"plant.{name}.1", str(number).encode(), timeout=SOON_S)
    before = await streams(client)
    async with broker.connect(nats_server.url) as bus:
        await works(bus)
    assert {name: stream for name, stream in (await streams(client)).items() if name in STREAMS} == before
    assert {count for _, count in before.values()} == {3}


@pytest.mark.parametrize("subjects", [("plant.*",), ("fl.state.>",)])
async def test_a_stream_by_our_name_without_our_mark_is_refused(
    nats_server: NatsServer, client: Client, subjects: tuple[str, ...]
) -> None:
    await create(client, "FEDKEEPER_STATE", *subjects)
    await client.request(subjects[0].replace("*", "1").replace(">", "1"), b"theirs", timeout=SOON_S)
    before = (await streams(client))["FEDKEEPER_STATE"]
    error = await refusal(nats_server.url)
    assert isinstance(error, ForeignStream)
    assert (error.stream, error.subjects) == ("FEDKEEPER_STATE", subjects)
    assert "?streams=PREFIX" in str(error)
    assert await streams(client) == {"FEDKEEPER_STATE": before}


async def test_with_other_names_a_stream_by_our_name_does_no_harm(nats_server: NatsServer, client: Client) -> None:
    await create(client, "FEDKEEPER_STATE", "plant.*")
    # Nothing that this leaves behind may be in the way of what it advises.
    assert isinstance(await refusal(nats_server.url), ForeignStream)
    async with broker.connect(f"{nats_server.url}&streams=OTHER") as bus:
        await works(bus)
    assert await names(client) == {f"OTHER_{family.name}" for family in FAMILIES} | {"FEDKEEPER_STATE"}


async def test_a_stream_that_keeps_our_topics_is_named(nats_server: NatsServer, client: Client) -> None:
    await create(client, "THEIRS", "fl.progress.*.mine.*")
    error = await refusal(nats_server.url)
    assert isinstance(error, ForeignStream)
    assert (error.stream, error.subjects) == ("THEIRS", ("fl.progress.*.mine.*",))
    assert await names(client) == {"THEIRS"}


LIMITED = """
authorization {
  users: [
    { user: "fedkeeper", password: "admin" },
    { user: "limited", password: "1", permissions: { publish: { deny: "$JS.API.STREAM.LIST" } } },
    { user: "reader", password: "1", permissions: { publish: { deny: "$JS.API.STREAM.CREATE.>" } } },
  ]
}
"""


async def test_a_stream_that_we_may_not_see_is_refused_too(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, max_file_bytes=2 << 30, settings=LIMITED) as server:
        at = f"127.0.0.1:{server.port}"
        client = await nats.connect(f"nats://{at}", user="fedkeeper", password="admin")  # noqa: S106
        await create(client, "THEIRS", "fl.>")
        error = await refusal(f"nats://limited:1@{at}")
        assert isinstance(error, ForeignStream)
        assert "the stream that we may not see (fl." in str(error)
        assert await names(client) == {"THEIRS"}
        await client.close()


async def test_a_user_without_the_right_to_create_a_missing_stream_gets_an_error_at_once(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, max_file_bytes=2 << 30, settings=LIMITED) as server:
        url = f"nats://reader:1@127.0.0.1:{server.port}"
        assert isinstance(await refusal(url), Denied)
        async with broker.connect(f"nats://fedkeeper:admin@127.0.0.1:{server.port}"), broker.connect(url) as bus:
            await works(bus)


async def test_two_names_for_the_same_topics_are_refused(nats_server: NatsServer, client: Client) -> None:
    async with broker.connect(nats_server.url) as bus:
        await bus.put(RECORD, b"1")
        error = await refusal(f"{nats_server.url}&streams=OTHER")
        assert await bus.get(RECORD) == broker.Value(RECORD, b"1", 1)
    assert isinstance(error, ForeignStream)
    assert error.stream.startswith("FEDKEEPER_")
    assert "another NATS account, or ?streams=PREFIX" in str(error)
    assert not [name for name in await names(client) if name.startswith("OTHER")]


async def test_a_stream_of_ours_that_was_turned_into_another_is_refused(
    nats_server: NatsServer, client: Client
) -> None:
    async with broker.connect(nats_server.url):
        config, _ = (await streams(client))["FEDKEEPER_MODELS"]
    changed = {**config, "max_msgs_per_subject": -1, "discard_new_per_subject": False}
    assert "error" not in await api(client, "STREAM.UPDATE.FEDKEEPER_MODELS", changed)
    error = await refusal(nats_server.url)
    assert isinstance(error, ForeignStream)
    assert "max_msgs_per_subject is -1 and must be 1" in str(error)


async def test_what_another_version_made_is_refused(nats_server: NatsServer, client: Client) -> None:
    await create(client, "FEDKEEPER_SUBMIT", "fl.jobs.submit", metadata={"fedkeeper.schema": "2"})
    before = await streams(client)
    for provision in (True, False):
        error = await refusal(nats_server.url, provision=provision)
        assert isinstance(error, Unsupported)
        assert "schema 2, this one has 1" in str(error)
    assert await streams(client) == before


@pytest.mark.parametrize("provision", [True, False])
async def test_a_store_of_0_1_is_left_as_it_is(nats_server: NatsServer, client: Client, *, provision: bool) -> None:
    for name, subjects in STREAMS.items():
        await create(client, name, *subjects)
    await client.request("fl.rounds.job-1", b"theirs", timeout=SOON_S)
    before = await streams(client)
    error = await refusal(nats_server.url, provision=provision)
    assert isinstance(error, OldStore)
    assert f"127.0.0.1:{nats_server.port} holds a store of FedKeeper 0.1, which was left as it is" in str(error)
    assert await streams(client) == before


async def test_a_user_that_only_reads_creates_nothing(nats_server: NatsServer, client: Client) -> None:
    error = await refusal(nats_server.url, provision=False)
    assert isinstance(error, NoSystem)
    assert "no FedKeeper system has used" in str(error)
    assert await names(client) == set()
    async with broker.connect(nats_server.url) as bus:
        await bus.put(RECORD, b"1")
    async with broker.connect(nats_server.url, provision=False) as bus:
        assert await bus.get(RECORD) == broker.Value(RECORD, b"1", 1)


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server with the accounts of docs/nats.md: two have JetStream, one imports the first one's."""
    # A user outside of accounts and accounts exclude each other.
    text = (REPOSITORY / "docs" / "nats.md").read_text(encoding="utf-8")
    (accounts,) = [block for block in text.split("```") if block.startswith("\naccounts {")]
    server = _WithoutUser(tmp_path / "shared", max_file_bytes=8 << 30, settings=accounts.replace("PASSWORD", "1"))
    await server.start()
    yield server
    await server.kill()


class _WithoutUser(NatsServer):
    def _write_config(self) -> None:
        super()._write_config()
        lines = self._config_file.read_text(encoding="utf-8").splitlines()
        self._config_file.write_text("\n".join(line for line in lines if not line.startswith("authorization")))


async def test_two_accounts_of_one_server_are_two_systems(shared: NatsServer) -> None:
    at = f"127.0.0.1:{shared.port}"
    async with broker.connect(f"nats://fl:1@{at}") as first, broker.connect(f"nats://plant:1@{at}") as other:
        await works(first)
        await works(other)


async def test_an_account_uses_the_jetstream_of_another(shared: NatsServer) -> None:
    at = f"127.0.0.1:{shared.port}"
    async with broker.connect(f"nats://site:1@{at}?js=FK.API") as site:
        await works(site)
        async with broker.connect(f"nats://fl:1@{at}", provision=False) as owner:
            assert await owner.get(RECORD) == await site.get(RECORD) == broker.Value(RECORD, b"1", 1)
        await _acknowledged(at)


async def _acknowledged(at: str) -> None:
    """Wait until the site's acknowledgement of its task has come: a queue forgets what was acknowledged."""
    client = await nats.connect(f"nats://{at}", user="fl", password="1")  # noqa: S106 (of a test's own server)
    try:
        async with asyncio.timeout(SOON_S):
            while (await api(client, "STREAM.INFO.FEDKEEPER_TASKS"))["state"]["messages"]:
                pass
    finally:
        await client.close()


async def test_a_domain_is_reached_under_its_own_prefix(tmp_path: Path) -> None:
    async with _InDomain(tmp_path / "hub", max_file_bytes=2 << 30) as hub:
        async with broker.connect(f"{hub.url}&js=$JS.hub.API&streams=PLANT_2") as bus:
            await works(bus)
        async with broker.connect(f"{hub.url}&streams=PLANT_2", provision=False) as bus:
            assert await bus.get(RECORD) == broker.Value(RECORD, b"1", 1)


class _InDomain(NatsServer):
    def _write_config(self) -> None:
        super()._write_config()
        text = self._config_file.read_text(encoding="utf-8")
        self._config_file.write_text(text.replace("jetstream {", "jetstream {\n  domain: hub"))
