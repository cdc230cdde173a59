"""One side of a relay."""

from bridges.relay.side import Side
from broker.base import Broker


def side(bus: Broker) -> Side:
    """A broker as the relay of `site-a` sees it, at 100 s since the epoch."""
    return Side("backbone", bus, "site-a", lambda: 100.0)
