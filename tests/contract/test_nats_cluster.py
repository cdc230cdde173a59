"""A cluster of three nats-servers loses a node: what was stored is there, and everything goes on."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

import broker
from broker import Broker, families, topics
from broker.errors import Unsupported
from broker.nats.seen import StreamInfo
from broker.nats.server import NatsServer, find_binary
from broker.support import processes
from emulators.nats_cluster import NODES, Cluster, running_cluster
from tests.support.paths import REPOSITORY
from tests.support.ports import free_port, listens

WITHIN_S = 180.0
PROGRESS = topics.progress("job-1", "round", "completed")
TASK = topics.task("local", "client-1")
RECORD = topics.job_record("job-1")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path, [free_port() for _ in range(2 * NODES)]) as cluster:
        yield cluster


@pytest.mark.slow
async def test_everything_goes_on_when_our_node_dies(cluster: Cluster) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        broker.connect(cluster.url) as bus,
        bus.subscribe(PROGRESS) as events,
        bus.subscribe(TASK, durable="bridge") as tasks,
    ):
        revision = await bus.put(RECORD, b"1", revision=0)
        for number in range(4):
            await bus.publish(PROGRESS, b"%d" % number)
        await bus.publish(TASK, b"a")
        seen = [await (await anext(events)).read() for _ in range(4)]
        await (await anext(tasks)).ack()

        await (await node_of(bus, cluster)).kill()

        value = await bus.get(RECORD)
        assert value is not None
        assert (value.payload, value.revision) == (b"1", revision)
        assert await bus.put(RECORD, b"2", revision=revision) > revision
        assert [v.payload for v in (await bus.snapshot("fl.rounds.*")).values()] == [b"2"]
        for number in range(4, 8):
            await bus.publish(PROGRESS, b"%d" % number)
        await bus.publish(TASK, b"b")
        seen += [await (await anext(events)).read() for _ in range(4)]
        # Each event once and in order, although the replay's consumer may have died with the node.
        assert seen == [b"%d" % number for number in range(8)]
        while await (delivery := await anext(tasks)).read() != b"b":
            await delivery.ack()


async def node_of(bus: Broker, cluster: Cluster) -> NatsServer:
    """Return the node to which a broker is connected."""
    connection = await bus._link.connection()  # type: ignore[attr-defined]
    port = connection._client.connected_url.port
    return next(node for node in cluster.nodes if node.port == port)


async def test_a_single_server_can_t_keep_replicas(nats_server: NatsServer) -> None:
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(Unsupported, match=r"can't keep 3 replicas of FEDKEEPER_\w+: .*\?replicas="):
            async with broker.connect(f"{nats_server.url}&replicas=3"):
                pass


@pytest.mark.slow
async def test_the_cluster_of_docker_compose_keeps_replicas_also_of_streams_that_had_none(tmp_path: Path) -> None:
    async with asyncio.timeout(WITHIN_S), composed(tmp_path) as url:
        async with broker.connect(url.replace("&replicas=3", "")) as bus:
            await bus.put(RECORD, b"1")
        async with broker.connect(url) as bus:
            connection = await bus._link.connection()  # type: ignore[attr-defined]
            for family in families.FAMILIES:
                call = f"STREAM.INFO.FEDKEEPER_{family.name}"
                info = await connection.call_api(RECORD, call, {}, StreamInfo)
                assert info.config["num_replicas"] == 3
            assert await bus.get(RECORD) is not None


@contextlib.asynccontextmanager
async def composed(folder: Path) -> AsyncIterator[str]:
    """Run the nodes of docker-compose.cluster.yml with other paths and ports; yield the URL of its programs."""
    parsed = yaml.safe_load((REPOSITORY / "docker-compose.cluster.yml").read_text())
    names = ["nats-1", "nats-2", "nats-3"]
    routes, ports = {name: free_port() for name in names}, {name: free_port() for name in names}
    url = parsed["services"]["server"]["environment"]["FEDKEEPER_URL"]
    (folder / "password").write_text("0123abcd")
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            (command,) = parsed["services"][name]["command"]
            assert parsed["services"][name]["hostname"] == name
            config = (REPOSITORY / "configs" / "broker.conf").read_text().replace("/data", str(folder / f"{name}.data"))
            (folder / f"{name}.conf").write_text(config)
            replaced = {
                "$$(hostname)": name,
                "$$": "$",
                "exec nats-server": f"exec {find_binary()} -a 127.0.0.1 -p {ports[name]} --log {folder}/{name}.log",
                "/etc/nats/broker.conf": str(folder / f"{name}.conf"),
                "/run/secrets/password": str(folder / "password"),
                "/tmp/nats.conf": str(folder / f"{name}.run.conf"),  # noqa: S108 (in a container)
                "0.0.0.0:6222": f"127.0.0.1:{routes[name]}",
                **{f"{other}:6222": f"127.0.0.1:{routes[other]}" for other in names},
            }
            for old, new in replaced.items():
                assert old in command
                command = command.replace(old, new)
            process = await asyncio.create_subprocess_exec(
                *parsed["services"][name]["entrypoint"],
                command,
                preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
            )
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)
            url = url.replace(name, f"127.0.0.1:{ports[name]}")
        for port in ports.values():
            await listens(port)
        yield url.replace("/run/secrets/password", str(folder / "password"))
