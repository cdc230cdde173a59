"""The handler module of the function on OpenFaaS. index.py beside it imports it once and calls `handle`."""

from client_fn.handlers.openfaas import handle
from client_fn.runtime import start
from client_fn.runtime.instance import of_this_process

__all__ = ["handle"]

start.prepare()
# A container with invalid settings must fail here, and not at its first request; and it is ready when torch is.
of_this_process().warm_up()
