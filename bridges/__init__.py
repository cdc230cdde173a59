"""Triggers: one adapter per FaaS platform, and one runner for all of them."""

from bridges.platform import Activation, Platform
from bridges.runner import Runner

__all__ = ["Activation", "Platform", "Runner"]
