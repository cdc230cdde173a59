import random

import pytest

from broker import BrokerUrl
from broker.errors import ConnectFailed
from broker.nats.hosts import open_any
from broker.url import Host

CLUSTER = BrokerUrl.parse("nats://a,b,c:4333")


class Hosts:
    """Hosts of which some accept a connection."""

    def __init__(self, *accepting: str) -> None:
        self.tried: list[Host] = []
        self._accepting = accepting

    async def open(self, host: Host) -> None:
        self.tried.append(host)
        if host.host not in self._accepting:
            raise ConnectFailed("nats://cluster", f"{host.host} is down")


async def test_every_host_is_tried_until_one_accepts() -> None:
    hosts = Hosts("b")
    for seed in range(20):
        await open_any(CLUSTER, hosts.open, random.Random(seed))  # noqa: S311
    assert hosts.tried.count(Host("b", 4222)) == 20
    assert set(hosts.tried) == set(CLUSTER.hosts)


async def test_the_first_host_is_drawn() -> None:
    first = set[Host]()
    for seed in range(20):
        hosts = Hosts("a", "b", "c")
        await open_any(CLUSTER, hosts.open, random.Random(seed))  # noqa: S311
        assert len(hosts.tried) == 1
        first |= set(hosts.tried)
    assert first == set(CLUSTER.hosts)


async def test_the_error_has_the_reason_of_each_host() -> None:
    with pytest.raises(ConnectFailed) as failed:
        await open_any(CLUSTER, Hosts().open, random.Random(0))  # noqa: S311
    assert str(failed.value).startswith("can't connect to nats://a:4222,b:4222,c:4333: ")
    assert {"a:4222: a is down", "b:4222: b is down", "c:4333: c is down"} == set(failed.value.reason.split("; "))


async def test_the_error_of_a_single_host_is_its_own() -> None:
    with pytest.raises(ConnectFailed) as failed:
        await open_any(BrokerUrl.parse("nats://a"), Hosts().open)
    assert failed.value.reason == "a is down"
