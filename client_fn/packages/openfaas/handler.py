"""What OpenFaaS's template python3-http imports when the container starts, and calls for every request."""

from client_fn.handlers.openfaas import handle
from client_fn.runtime import start
from client_fn.runtime.instance import of_this_process

__all__ = ["handle"]

start.prepare()
# A container that is set up wrong shall say so now, not when the first order comes.
of_this_process()
