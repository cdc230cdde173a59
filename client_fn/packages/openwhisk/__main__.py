"""The action's main module. OpenWhisk imports it once and calls `main` for every activation."""

from client_fn.handlers.openwhisk import main
from client_fn.runtime import start
from client_fn.runtime.instance import of_this_process

__all__ = ["main"]

start.prepare()
# An action with invalid settings must fail here, and not at its first request; and it is ready when torch is.
of_this_process().warm_up()
