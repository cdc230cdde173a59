"""The `gcf` platform: `opened(settings, vault, broker)` is a `bridges.platform.ManagedPlatform`."""

from bridges.gcf.platform import GcfPlatform, opened
from bridges.gcf.settings import Settings

__all__ = ["GcfPlatform", "Settings", "opened"]
