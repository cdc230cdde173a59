"""Triggers: one package per FaaS platform (`platforms.py` lists them), and one runner for all of them."""

from bridges.attempt import Invoker, Patience
from bridges.lifecycle import Lifecycle
from bridges.platform import Activation, BasePlatform, Functions, Host, Platform
from bridges.rate_limit import Pace
from bridges.runner import Runner
from bridges.secrets import SecretStore

__all__ = [
    "Activation",
    "BasePlatform",
    "Functions",
    "Host",
    "Invoker",
    "Lifecycle",
    "Pace",
    "Patience",
    "Platform",
    "Runner",
    "SecretStore",
]
