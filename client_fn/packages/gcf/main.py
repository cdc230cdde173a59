"""The main module that functions-framework loads. The function's entry point is `train`."""

import functions_framework

from client_fn.handlers import gcf
from client_fn.runtime import start
from client_fn.runtime.instance import of_this_process

start.prepare()
# Read the settings now: a function with invalid settings must fail here, and not at its first request.
of_this_process()

train = functions_framework.cloud_event(gcf.train)
