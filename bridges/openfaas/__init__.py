"""The `openfaas` platform: `opened(settings, vault, broker)` is a `bridges.platform.Host`."""

from bridges.openfaas.platform import OpenFaas, Settings, opened

__all__ = ["OpenFaas", "Settings", "opened"]
