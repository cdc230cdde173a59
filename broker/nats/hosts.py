"""Chooses which of a cluster's hosts to connect to."""

import random
from collections.abc import Awaitable, Callable
from typing import Final

from broker.errors import ConnectFailed
from broker.url import BrokerUrl, Host

_RANDOM: Final = random.SystemRandom()

Open = Callable[[Host], Awaitable[None]]


async def open_any(address: BrokerUrl, open_host: Open, rng: random.Random = _RANDOM) -> None:
    """Try the hosts in random order, so that clients spread over the nodes, and return once one accepts.

    Args:
        address: the broker's address.
        open_host: connects to a host; raises ConnectFailed if that fails.
        rng: draws the order.

    Raises:
        ConnectFailed: every host failed; the error names each with its reason.
    """
    failed = dict[Host, ConnectFailed]()
    for host in rng.sample(address.hosts, len(address.hosts)):
        try:
            await open_host(host)
        except ConnectFailed as exc:
            failed[host] = exc
        else:
            return
    if len(failed) == 1:
        raise failed.popitem()[1]
    raise ConnectFailed(address.address, "; ".join(f"{host}: {error.reason}" for host, error in failed.items()))
