"""What functions-framework loads; the function's entry point is `train`."""

import functions_framework

from client_fn.handlers import gcf
from client_fn.runtime import start
from client_fn.runtime.instance import of_this_process

start.prepare()
# A function that is set up wrong shall say so now, not when the first order comes.
of_this_process()

train = functions_framework.cloud_event(gcf.train)
