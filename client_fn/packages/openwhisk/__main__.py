"""The action's main module. OpenWhisk imports it once and calls `main` for every activation."""

from client_fn.handlers.openwhisk import main
from client_fn.runtime import start
from client_fn.runtime.instance import of_this_process

__all__ = ["main"]

start.prepare()
# Read the settings now: an action with invalid settings must fail here, and not at its first request.
of_this_process()
