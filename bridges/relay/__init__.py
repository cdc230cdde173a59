"""The relay joins a site's own broker to the backbone: tasks go down, updates go up, none is lost or duplicated."""

from bridges.relay.relay import Relay
from bridges.relay.settings import Settings

__all__ = ["Relay", "Settings"]
