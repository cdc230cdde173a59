"""Bridges trigger functions: one package per FaaS platform (`platforms.py` lists them), one runner for all of them."""

from bridges.attempt import Invoker, RetryPolicy
from bridges.lifecycle import Lifecycle
from bridges.platform import Activation, BasePlatform, Functions, ManagedPlatform, Platform
from bridges.rate_limit import RateLimiter
from bridges.runner import Runner
from bridges.secrets import SecretStore

__all__ = [
    "Activation",
    "BasePlatform",
    "Functions",
    "Invoker",
    "Lifecycle",
    "ManagedPlatform",
    "Platform",
    "RateLimiter",
    "RetryPolicy",
    "Runner",
    "SecretStore",
]
