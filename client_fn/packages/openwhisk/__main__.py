"""What OpenWhisk imports when it initialises the action, and calls `main` of for every activation."""

from client_fn.handlers.openwhisk import main
from client_fn.runtime import start
from client_fn.runtime.instance import of_this_process

__all__ = ["main"]

start.prepare()
# An action that is set up wrong shall say so now, not when the first order comes.
of_this_process()
