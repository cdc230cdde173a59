"""What OpenWhisk imports when it initialises the action, and calls `main` of for every activation."""

from client_fn import start
from client_fn.instance import of_this_process
from client_fn.openwhisk import main

__all__ = ["main"]

start.prepare()
# An action that is set up wrong shall say so now, not when the first order comes.
of_this_process()
