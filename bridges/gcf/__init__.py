"""The `gcf` platform: `opened(settings, vault, broker)` is a `bridges.platform.Host`."""

from bridges.gcf.platform import CloudFunctions, opened
from bridges.gcf.settings import Settings

__all__ = ["CloudFunctions", "Settings", "opened"]
