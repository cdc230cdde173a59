"""Triggers: one adapter per FaaS platform, and one runner for all of them."""

from bridges.lifecycle import Lifecycle
from bridges.pacing import Pace
from bridges.platform import Activation, Connecting, Host, Platform
from bridges.run import Invoker, Patience
from bridges.runner import Runner
from bridges.vault import Vault

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
