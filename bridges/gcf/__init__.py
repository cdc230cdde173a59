"""The `gcf` platform. `opened(settings, secrets, broker)` yields a `bridges.platform.ManagedPlatform`."""

from bridges.gcf.platform import GcfPlatform, opened
from bridges.gcf.settings import Settings

__all__ = ["GcfPlatform", "Settings", "opened"]
