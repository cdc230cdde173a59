"""The `openfaas` platform. `opened(settings, secrets, broker)` yields a `bridges.platform.ManagedPlatform`."""

from bridges.openfaas.platform import OpenFaasPlatform, opened
from bridges.openfaas.settings import Settings

__all__ = ["OpenFaasPlatform", "Settings", "opened"]
