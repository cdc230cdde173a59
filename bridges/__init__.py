"""Triggers: one adapter per FaaS platform, and one runner for all of them."""

from bridges.attempt import Invoker, Patience
from bridges.lifecycle import Lifecycle
from bridges.platform import Activation, Connecting, Host, Platform
from bridges.rate_limit import Pace
from bridges.runner import Runner
from bridges.secrets import Vault

__all__ = [
    "Activation",
    "Connecting",
    "Host",
    "Invoker",
    "Lifecycle",
    "Pace",
    "Patience",
    "Platform",
    "Runner",
    "Vault",
]
