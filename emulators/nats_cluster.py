"""Three nats-servers on loopback that form one cluster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from broker.nats.server import LOOPBACK, USER, NatsServer

NODES: Final = 3
_PASSWORD: Final = "of-all-nodes"  # noqa: S105 (of a cluster that dies with its test)
_SETTINGS: Final = 'cluster {{ name: "test", listen: "{host}:{port}", routes: [{routes}] }}'


class Cluster:
    """A running cluster.

    Attributes:
        nodes: its servers; each can be killed and started again.
    """

    def __init__(self, nodes: list[NatsServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """The address of all nodes, with three replicas of every stream."""
        return f"{self.plain_url}?replicas={NODES}"

    @property
    def plain_url(self) -> str:
        """The address of all nodes."""
        hosts = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        return f"nats://{USER}:{_PASSWORD}@{hosts}"


@contextlib.asynccontextmanager
async def running_cluster(
    folder: Path, ports: Sequence[int], *, max_file_bytes: int = 2 << 30
) -> AsyncIterator[Cluster]:
    """Run a cluster during the block.

    Args:
        folder: for the servers' folders.
        ports: two free ports for each node: for clients, and for the other nodes.
        max_file_bytes: size limit of each server's store.
    """
    client_ports, route_ports = ports[:NODES], ports[NODES : 2 * NODES]
    routes = ", ".join(f'"nats-route://{LOOPBACK}:{port}"' for port in route_ports)
    nodes = list[NatsServer]()
    for number, (port, route_port) in enumerate(zip(client_ports, route_ports, strict=True)):
        settings = _SETTINGS.format(host=LOOPBACK, port=route_port, routes=routes)
        node = NatsServer(folder / f"node-{number}", port=port, max_file_bytes=max_file_bytes, settings=settings)
        node.folder.mkdir(parents=True)
        node.password_file.write_text(_PASSWORD, encoding="utf-8")
        nodes.append(node)
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            stack.push_async_callback(node.kill)
        await asyncio.gather(*(node.start() for node in nodes))
        yield Cluster(nodes)
