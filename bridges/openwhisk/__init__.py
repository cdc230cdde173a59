"""The `openwhisk` platform. `opened(settings, secrets, broker)` yields a `bridges.platform.ManagedPlatform`."""

from bridges.openwhisk.platform import OpenWhiskPlatform, opened
from bridges.openwhisk.settings import Settings

__all__ = ["OpenWhiskPlatform", "Settings", "opened"]
