"""The `openwhisk` platform: `opened(settings, vault, broker)` is a `bridges.platform.Host`."""

from bridges.openwhisk.platform import OpenWhisk, Settings, opened

__all__ = ["OpenWhisk", "Settings", "opened"]
