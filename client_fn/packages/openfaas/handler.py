"""What OpenFaaS's template python3-http imports when the container starts, and calls for every request."""

from client_fn import start
from client_fn.instance import of_this_process
from client_fn.openfaas import handle

__all__ = ["handle"]

start.prepare()
# A container that is set up wrong shall say so now, not when the first order comes.
of_this_process()
